"""A node's own key: an elliptic-curve key pair that never leaves its machine.

Peers learn the public half from the node's EC2 tag, which only that instance may write. With it they

- derive a secret that only the two nodes have (ECDH), for the signatures of their messages,
- check that a TLS connection ends at that node: its certificate is signed by this key itself, and no CA is needed.

The curve is P-256: it does both, TLS libraries everywhere have it, and its public half fits into a tag.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import NameOID

_CURVE = ec.SECP256R1()
_SECRET_BYTES = 32
_PURPOSE = b"synkti: messages between two nodes, v1"
_VALIDITY = timedelta(days=3650)
"""The certificate is valid for longer than any run of an agent; a key is shut out by its node's tag, not by a date."""
_CLOCK_SKEW = timedelta(days=1)


class UnusablePublicKeyError(ValueError):
    """A text that is no public key of a node."""


@dataclass(frozen=True, slots=True)
class PemPair:
    """A certificate and its private key, both in PEM."""

    certificate: bytes
    private_key: bytes


class NodeKey:
    """The key pair of a node; its private half stays in its memory (`adapters/remembered`)."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        self._private = private_key
        self.public = _encode(private_key.public_key())
        """The public half: a compressed point in URL-safe Base64, 44 characters."""

    @classmethod
    def generate(cls) -> NodeKey:
        """Make a new key pair."""
        return cls(ec.generate_private_key(_CURVE))

    @classmethod
    def of_seed(cls, seed: bytes) -> NodeKey:
        """Make the key pair that a text determines: for benchmarks, whose processes have no EC2 to exchange keys by."""
        number = int.from_bytes(hashlib.sha256(seed).digest())
        return cls(ec.derive_private_key(1 + number % (_CURVE.group_order - 1), _CURVE))

    @classmethod
    def from_pem(cls, pem: bytes) -> NodeKey | None:
        """Return the key pair that `to_pem` wrote; None for anything else."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return None
        return cls(key) if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == _CURVE.name else None

    def to_pem(self) -> bytes:
        """Return the private key in PEM."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def shared_secret(self, public: str) -> bytes:
        """Return the secret that only this node and the owner of that public key can derive, 32 bytes.

        Raises UnusablePublicKeyError as `_decode`.
        """
        agreed = self._private.exchange(ec.ECDH(), _decode(public))
        return HKDF(algorithm=hashes.SHA256(), length=_SECRET_BYTES, salt=None, info=_PURPOSE).derive(agreed)

    def certificate(self, node_id: str, now: datetime) -> PemPair:
        """Sign a certificate for this node with its own key."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id[:64])])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + _VALIDITY)
            .sign(self._private, hashes.SHA256())
        )
        return PemPair(certificate.public_bytes(serialization.Encoding.PEM), self.to_pem())


def is_public_key(text: str) -> bool:
    """Return whether a text, as from a tag, is a public key of a node."""
    try:
        _decode(text)
    except UnusablePublicKeyError:
        return False
    return True


def public_key_of_certificate(der: bytes) -> str | None:
    """Return the public half of the key in a certificate; None where it is none that a node has.

    The handshake of TLS has shown that the other side has the private half.
    """
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except ValueError:
        return None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVE.name:
        return None
    return _encode(key)


def _encode(key: ec.EllipticCurvePublicKey) -> str:
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    return base64.urlsafe_b64encode(point).decode()


def _decode(text: str) -> ec.EllipticCurvePublicKey:
    try:
        point = base64.b64decode(text, altchars=b"-_", validate=True)
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point)
    except (ValueError, binascii.Error) as error:
        msg = f"{text[:80]!r} is no public key of a node: a compressed P-256 point in URL-safe Base64, 44 characters"
        raise UnusablePublicKeyError(msg) from error

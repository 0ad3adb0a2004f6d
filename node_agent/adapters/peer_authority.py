"""The authority that signs the certificates of connections between nodes: derived from the cluster's key.

Each node that has the cluster's key derives the same authority, so none has to be stored, sent or renewed. It signs
only the node's own certificate, whose key is that of the agent's run (`adapters/node_key`). A certificate by it shows
that a node has the cluster's key, as a signature of a request does; *which* node it is, its own key shows.

Python's TLS requests a client's certificate only where an authority is named that has to have signed it: a certificate
that a node signs by itself could not be requested.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import NameOID

_CURVE = ec.SECP256R1()
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256: a private key is a number from 1 to below it."""

_DERIVED_BYTES = 48
"""Sixteen more than the order has, so that the remainder is evenly distributed (NIST SP 800-56A, 5.6.1.2.1)."""

_PURPOSE = b"synkti: authority of certificates between nodes, v1"
_BEGINS, _ENDS = datetime(2026, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)
"""Not read: nodes' clocks may be wrong. A node is shut out by its key, and a cluster by its own."""


class PeerAuthority:
    """An authority. certificate: its own, in PEM."""

    def __init__(self, cluster_key: bytes) -> None:
        derived = HKDF(algorithm=hashes.SHA256(), length=_DERIVED_BYTES, salt=None, info=_PURPOSE).derive(cluster_key)
        self._key = ec.derive_private_key(int.from_bytes(derived, "big") % (_ORDER - 1) + 1, _CURVE)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        # With the key in the name, two authorities can be trusted at once while the cluster's key changes.
        self._name = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, f"synkti peers {identifier.digest.hex()[:16]}")]
        )
        self._identifier = identifier
        own = self._builder(self._name, self._key.public_key())
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        own = own.add_extension(_usage(signs_certificates=True), critical=True)
        self.certificate = _sign(own.add_extension(identifier, critical=False), self._key)

    def issue(self, certificate: bytes) -> bytes:
        """Return a certificate by this authority, in PEM, for the name and the key of another one."""
        given = x509.load_pem_x509_certificate(certificate)
        key = given.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("the certificate is not of a node's key")
        issued = self._builder(given.subject, key)
        issued = issued.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        issued = issued.add_extension(_usage(signs_certificates=False), critical=True)
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier)
        return _sign(issued.add_extension(authority, critical=False), self._key)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_BEGINS)
            .not_valid_after(_ENDS)
        )


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> bytes:
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )

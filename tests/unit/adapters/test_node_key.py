"""A node's own key: secrets of pairs of nodes, certificates, unusable public keys."""

import ssl
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from node_agent.adapters.node_key import NodeKey, UnusablePublicKeyError, is_public_key, public_key_of_certificate

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def test_two_nodes_derive_the_same_secret_and_a_third_another() -> None:
    one, two, three = NodeKey.generate(), NodeKey.generate(), NodeKey.generate()
    assert one.shared_secret(two.public) == two.shared_secret(one.public)
    assert len(one.shared_secret(two.public)) == 32
    assert three.shared_secret(two.public) != one.shared_secret(two.public) != one.shared_secret(three.public)


def test_a_public_key_fits_into_a_tag() -> None:
    public = NodeKey.generate().public
    assert len(public) == 44
    assert is_public_key(public)


def test_a_certificate_has_the_key_of_its_node() -> None:
    key = NodeKey.generate()
    pair = key.certificate("i-0123456789abcdef0", NOW)
    assert public_key_of_certificate(ssl.PEM_cert_to_DER_cert(pair.certificate.decode())) == key.public
    assert b"PRIVATE KEY" in pair.private_key
    assert b"PRIVATE KEY" not in pair.certificate


def test_a_key_is_read_again_and_nothing_else_is_one() -> None:
    key = NodeKey.generate()
    again = NodeKey.from_pem(key.to_pem())
    assert again is not None
    assert again.public == key.public
    other_curve = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for pem in (b"", b"x", key.to_pem()[:-40], other_curve):
        assert NodeKey.from_pem(pem) is None
    assert NodeKey.of_seed(b"i-1").public == NodeKey.of_seed(b"i-1").public != NodeKey.of_seed(b"i-2").public


@pytest.mark.parametrize("text", ["", "AAAA", "=" * 44, "ä" * 44, "A" * 44, "A" * 100_000])
def test_another_text_is_no_public_key(text: str) -> None:
    assert not is_public_key(text)
    with pytest.raises(UnusablePublicKeyError, match="is no public key of a node") as error:
        NodeKey.generate().shared_secret(text)
    assert len(str(error.value)) < 300


@given(st.binary(max_size=300))
def test_rubbish_is_no_certificate(der: bytes) -> None:
    assert public_key_of_certificate(der) is None

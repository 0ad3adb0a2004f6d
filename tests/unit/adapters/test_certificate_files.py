"""The client API's certificate and key, as files: what is loaded, and the reason where nothing is."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from node_agent.adapters.certificate_files import CertificateFiles
from node_agent.ports import UnusableCertificateError
from tests.unit.adapters.certificates import Authority, Pair


def test_a_pair_is_loaded_with_its_end(tmp_path: Path) -> None:
    pair = Authority(tmp_path).pair(days=30)
    loaded = asyncio.run(CertificateFiles(pair.certificate, pair.key).load())
    assert loaded.expires_at == pytest.approx(time.time() + 30 * 86_400, abs=60)


def _swap_keys(folder: Path, pair: Pair) -> None:
    pair.key.write_bytes(Authority(folder).pair("another").key.read_bytes())


def _encrypt(folder: Path, pair: Pair) -> None:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def _make_folder(folder: Path, pair: Pair) -> None:
    pair.key.unlink()
    pair.key.mkdir()


UNUSABLE: dict[str, tuple[Callable[[Path, Pair], object], str]] = {
    "no certificate": (lambda folder, pair: pair.certificate.unlink(), "No such file"),
    "no key": (lambda folder, pair: pair.key.unlink(), "No such file"),
    "another's key": (_swap_keys, "the key is not that of the certificate"),
    "a key with a passphrase": (_encrypt, "has a passphrase"),
    "not PEM": (lambda folder, pair: pair.certificate.write_text("hello"), "PEM"),
    "an empty key": (lambda folder, pair: pair.key.write_text(""), "PEM"),
    "half a certificate": (
        lambda folder, pair: pair.certificate.write_bytes(pair.certificate.read_bytes()[:200]),
        "PEM",
    ),
    "a folder": (_make_folder, "directory"),
    "a huge file": (lambda folder, pair: pair.certificate.write_bytes(b"x" * 2_000_000), "more than"),
}


@pytest.mark.parametrize("fault", UNUSABLE)
def test_an_unusable_pair_is_an_error_with_the_reason(tmp_path: Path, fault: str) -> None:
    pair = Authority(tmp_path).pair()
    break_pair, reason = UNUSABLE[fault]
    break_pair(tmp_path, pair)
    with pytest.raises(UnusableCertificateError, match=reason) as error:
        asyncio.run(CertificateFiles(pair.certificate, pair.key).load())
    assert str(pair.certificate) in str(error.value), "it names the files"
    assert "PRIVATE" not in str(error.value)


def test_versions_differ_once_a_file_was_replaced(tmp_path: Path) -> None:
    pair = Authority(tmp_path).pair()
    files = CertificateFiles(pair.certificate, pair.key)
    first = asyncio.run(files.versions())
    assert asyncio.run(files.versions()) == first
    new = pair.key.with_suffix(".new")
    new.write_bytes(pair.key.read_bytes())
    status = pair.key.stat()
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(pair.key)
    second = asyncio.run(files.versions())
    assert second != first, "another inode, with the same time and size"
    pair.certificate.unlink()
    assert asyncio.run(files.versions())[0] is None

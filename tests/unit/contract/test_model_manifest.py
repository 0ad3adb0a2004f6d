"""A manifest: read back from what was written, equal for equal content, and never a way out of the model's folder."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract import model_manifest
from node_agent.contract.model_manifest import (
    Manifest,
    ModelFile,
    is_model_name,
    manifest_key,
    manifest_of,
    model_path_fault,
    parse_manifest,
)

SHA = hashlib.sha256(b"weights").hexdigest()
paths = st.lists(
    st.text("abc-._", min_size=1, max_size=8).filter(lambda t: t not in (".", "..")), min_size=1, max_size=3
)


@given(
    st.dictionaries(
        paths.map(lambda p: "/".join([*(f"{part}.d" for part in p), "file"])),
        st.integers(0, 10**13),
        min_size=1,
        max_size=8,
    )
)
def test_a_manifest_is_read_back_as_it_was_written(sizes: dict[str, int]) -> None:
    manifest = manifest_of({path: (size, SHA) for path, size in sizes.items()})
    assert parse_manifest(manifest.encode()) == manifest
    assert manifest.total_bytes == sum(sizes.values())


def test_equal_content_has_one_name_whatever_the_order() -> None:
    files = {"config.json": (3, SHA), "a/model.safetensors": (9, SHA)}
    one, other = manifest_of(files), manifest_of(dict(reversed(files.items())))
    assert one.sha256 == other.sha256 == hashlib.sha256(one.encode()).hexdigest()
    assert manifest_of({**files, "config.json": (4, SHA)}).sha256 != one.sha256
    assert [file.path for file in one.files] == ["a/model.safetensors", "config.json"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../../etc/passwd", "plain path"),
        ("/etc/passwd", "plain path"),
        ("a//b", "plain path"),
        ("a/./b", "plain path"),
        ("a\\b", "characters that no path needs"),
        ("a\nb", "characters that no path needs"),
        ("", "empty"),
        ("a" * 513, "longer than"),
        ("manifest.json", "manifest's own name"),
    ],
)
def test_a_path_leads_nowhere_else(path: str, why: str) -> None:
    assert why in (model_path_fault(path) or "")
    with pytest.raises(ValueError, match=why):
        parse_manifest(json.dumps({"format": 1, "files": [{"path": path, "size": 1, "sha256": SHA}]}).encode())


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"{", "Expecting"),
        (b"[]", "format 1"),
        (b'{"format": 2, "files": []}', "format 1"),
        (b'{"format": 1}', "no list"),
        (b'{"format": 1, "files": []}', "0 files"),
        (b'{"format": 1, "files": [3]}', "not an object"),
        (b'{"format": 1, "files": [{"path": "a", "size": true, "sha256": "x"}]}', "lacks"),
        (b'{"format": 1, "files": [{"path": "a", "size": 1, "sha256": "x"}]}', "no SHA-256"),
    ],
)
def test_what_is_no_manifest_says_why(document: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_manifest(document)


def test_a_manifest_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_manifest, "MAX_FILES", 2)
    files = [{"path": f"f{n}", "size": 1, "sha256": SHA} for n in range(3)]
    with pytest.raises(ValueError, match="from 1 to 2"):
        parse_manifest(json.dumps({"format": 1, "files": files}).encode())
    with pytest.raises(ValueError, match="longer than"):
        parse_manifest(b" " * (model_manifest.MAX_MANIFEST_BYTES + 1))


def test_two_files_of_one_path_and_a_file_that_is_a_folder_are_refused() -> None:
    twice = json.loads(Manifest((ModelFile("a", 1, SHA), ModelFile("a", 1, SHA))).encode())
    with pytest.raises(ValueError, match="named twice"):
        parse_manifest(json.dumps(twice).encode())
    with pytest.raises(ValueError, match="below another file"):
        manifest_of({"a": (1, SHA), "a/b": (1, SHA)})


@pytest.mark.parametrize("name", ["tiny", "Llama-3.1-8B-Instruct", "a", "x" * 96])
def test_names_that_a_model_may_have(name: str) -> None:
    assert is_model_name(name)
    assert manifest_key(name) == f"models/{name}/manifest.json"


@pytest.mark.parametrize("name", ["", "-a", ".a", "a/b", "x" * 97, "a b", "ä"])
def test_names_that_a_model_may_not_have(name: str) -> None:
    assert not is_model_name(name)

"""The release workflow's own scripts: the notes of a tag, and the bill of materials."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
CHANGELOG = """# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-01

### Added

- A thing.

## [0.1.0] - 2026-11-30

[0.2.0]: https://example.com/v0.2.0
"""
PINNED = "a-b[x]==1.2+cpu ; sys_platform == 'linux' \\\n    --hash=sha256:" + "0" * 64 + "\n    # via c\n"


def script(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"github_{name}", ROOT / ".github" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "client").mkdir()
    for name in ("pyproject.toml", "client/pyproject.toml"):
        (tmp_path / name).write_text('[project]\nversion = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def test_the_notes_are_the_section_of_the_tag(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("release").main(["v0.2.0"], checkout) == 0
    assert capsys.readouterr().out == "### Added\n\n- A thing.\n"


@pytest.mark.parametrize(
    ("tag", "client", "why"),
    [
        ("", "0.2.0", "is not v<major>"),
        ("v0.2", "0.2.0", "is not v<major>"),
        ("v0.2.0-rc1", "0.2.0", "is not v<major>"),
        ("v0.2.1", "0.2.0", "pyproject.toml declares 0.2.0, the tag 0.2.1"),
        ("v0.2.0", "0.1.0", "client/pyproject.toml declares 0.1.0"),
    ],
)
def test_a_tag_that_differs_from_the_declared_versions_releases_nothing(
    tag: str, client: str, why: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "client/pyproject.toml").write_text(f'[project]\nversion = "{client}"\n')
    assert script("release").main([tag], checkout) == 1
    shown = capsys.readouterr()
    assert why in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("changelog", "why"),
    [
        (CHANGELOG.replace(" - 2026-12-01", ""), "no section"),
        (CHANGELOG.replace("0.2.0", "0.3.0"), "no section"),
        (CHANGELOG.replace("### Added\n\n- A thing.\n", ""), "nothing under 0.2.0"),
    ],
)
def test_a_version_without_notes_releases_nothing(changelog: str, why: str) -> None:
    release = script("release")
    with pytest.raises(release.NotReleasable, match=why):
        release.notes(changelog, "0.2.0")


def test_the_last_section_ends_before_the_links() -> None:
    text = CHANGELOG.replace("2026-11-30\n", "2026-11-30\n\n- [x]: the first.\n")
    assert script("release").notes(text, "0.1.0") == "- [x]: the first."


def test_the_bill_names_every_locked_package_with_its_hashes() -> None:
    sbom = script("sbom")
    document = sbom.bill(ROOT)
    found = {component["purl"]: component for component in document["components"]}
    assert len(found) == len(document["components"])
    for lock in sbom.PYTHON_LOCKS:
        for name, version in re.findall(r"^([\w.-]+)(?:\[.*\])?==([^\s;\\]+)", (ROOT / lock).read_text(), re.MULTILINE):
            purl = f"pkg:pypi/{re.sub('[-_.]+', '-', name).lower()}@{version.replace('+', '%2B')}"
            assert found[purl]["hashes"], purl
    versions = json.loads((ROOT / "package.json").read_text())["devDependencies"]
    assert {f"pkg:npm/{name}@{version}" for name, version in versions.items()} <= set(found)
    assert all(len(each["content"]) in (64, 128) for component in found.values() for each in component["hashes"])
    assert document["metadata"]["component"]["name"] == "synkti"


def test_a_package_is_read_with_extras_markers_and_a_local_version() -> None:
    (component,) = script("sbom").python_components(f"# a comment\n{PINNED}")
    assert (component["name"], component["version"], component["purl"]) == ("a-b", "1.2+cpu", "pkg:pypi/a-b@1.2%2Bcpu")
    assert component["hashes"] == [{"alg": "SHA-256", "content": "0" * 64}]


@pytest.mark.parametrize(("lock", "why"), [("a==1\n", "no hash of a"), ("a>=1\n", "not a pinned package")])
def test_a_package_without_pin_or_hash_is_rejected(lock: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        list(script("sbom").python_components(lock))

"""Print the software bill of materials of a release as CycloneDX 1.6 JSON.

    python3 .github/sbom.py >synkti.cdx.json

Components are the locked packages that a release installs: on a GPU node uv, the agent's packages and vLLM's
(`requirements/`), and the CDK command-line tool beside the `synkti` command (`package-lock.json`). The Python
packages of the `synkti` command are not among them: `pyproject.toml` gives ranges, and the installer resolves them.
`hashes` are those that the installer accepts, one for each file of the package. Equal lock files give equal bytes.
Standard library only.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PYTHON_LOCKS = ("requirements/bootstrap.txt", "requirements/agent.txt", "requirements/engine.txt")
NPM_LOCK = "package-lock.json"
_PINNED = re.compile(r"([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_MODULES = "node_modules/"


def bill(root: Path) -> dict[str, Any]:
    """Return the whole document. Raises ValueError where a lock file has a package without a hash."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    found: dict[str, dict[str, Any]] = {}
    for name in PYTHON_LOCKS:
        for component in python_components((root / name).read_text()):
            found.setdefault(component["bom-ref"], component)
    for component in npm_components((root / NPM_LOCK).read_text()):
        found.setdefault(component["bom-ref"], component)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                **_component("pypi", project["name"], project["version"]),
                "type": "application",
                "description": project["description"],
                "licenses": [{"expression": project["license"]}],
            }
        },
        "components": [found[key] for key in sorted(found)],
    }


def python_components(lock: str) -> Iterator[dict[str, Any]]:
    """Yield the packages of a requirements file with hashes, as `uv pip compile --generate-hashes` writes it."""
    for entry in re.split(r"\n(?=\S)", lock):
        pinned = _PINNED.match(entry)
        if pinned is None:
            if entry.strip() and not entry.lstrip().startswith("#"):
                raise ValueError(f"not a pinned package: {entry.splitlines()[0]!r}")
            continue
        hashes = _HASH.findall(entry)
        if not hashes:
            raise ValueError(f"no hash of {pinned[1]}")
        name = re.sub(r"[-_.]+", "-", pinned[1]).lower()
        yield _component("pypi", name, pinned[2]) | {"hashes": [{"alg": "SHA-256", "content": each} for each in hashes]}


def npm_components(lock: str) -> Iterator[dict[str, Any]]:
    """Yield the packages of an npm lock file, version 3."""
    for path, package in json.loads(lock)["packages"].items():
        if not path:
            continue  # the project itself
        algorithm, _, digest = package["integrity"].partition("-")
        if algorithm != "sha512":
            raise ValueError(f"the hash of {path} is {algorithm}")
        name = path.rpartition(_MODULES)[2]
        content = base64.b64decode(digest).hex()
        yield _component("npm", name, package["version"]) | {"hashes": [{"alg": "SHA-512", "content": content}]}


def _component(kind: str, name: str, version: str) -> dict[str, Any]:
    """Build a component. kind: the type of a package URL (https://github.com/package-url/purl-spec)."""
    purl = f"pkg:{kind}/{name.replace('@', '%40')}@{version.replace('+', '%2B')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    json.dump(bill(ROOT), sys.stdout, indent=2)
    print()

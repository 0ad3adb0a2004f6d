"""Print the release notes of a tag: the section of CHANGELOG.md for its version.

    python3 .github/release.py v0.1.0 >notes.md

Fails with exit code 1 where the tag, the versions in both pyproject.toml files and CHANGELOG.md disagree. Standard
library only: it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pyproject.toml", "client/pyproject.toml")
_TAG = re.compile(r"v(\d+\.\d+\.\d+)")


class NotReleasable(Exception):
    """The tag, the packages and the changelog disagree; the message is one line."""


def version_of(tag: str) -> str:
    """Return the version of a tag. Raises NotReleasable."""
    found = _TAG.fullmatch(tag)
    if found is None:
        raise NotReleasable(f"the tag {tag!r} is not v<major>.<minor>.<patch>")
    return found[1]


def check_packages(root: Path, version: str) -> None:
    """Compare the version with every package's. Raises NotReleasable where they differ."""
    for name in PACKAGES:
        declared = tomllib.loads((root / name).read_text())["project"]["version"]
        if declared != version:
            raise NotReleasable(f"{name} declares {declared}, the tag {version}")


def notes(changelog: str, version: str) -> str:
    """Return the text of a version's section without its heading. Raises NotReleasable where it is missing or empty."""
    heading = re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)
    if heading is None:
        raise NotReleasable(f"CHANGELOG.md has no section '## [{version}] - <year>-<month>-<day>'")
    text = re.split(r"^(?:## |\[[^\]]+\]: )", changelog[heading.end() :], maxsplit=1, flags=re.MULTILINE)[0].strip()
    if not text:
        raise NotReleasable(f"CHANGELOG.md has nothing under {version}")
    return text


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Print the notes; return the exit code. arguments: the tag."""
    try:
        version = version_of(arguments[0] if arguments else "")
        check_packages(root, version)
        print(notes((root / "CHANGELOG.md").read_text(), version))
    except NotReleasable as problem:
        print(f"release: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

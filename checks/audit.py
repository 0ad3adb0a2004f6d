"""`make audit`: look up every locked package in the databases of known vulnerabilities, with pip-audit and npm audit.

A finding fails the check, unless `audit_ignored.toml` ignores it for a reason and until a date. An entry whose date has
come fails it as well, and so does one without a finding. Where a database cannot be reached, the check prints that
nothing was compared, and for which lock file. In CI (`CI=true`) that is a failure; elsewhere it is not, because a
laptop without a network is no fault of the packages.

Exit codes: 0 nothing found, or not reachable outside CI · 1 a finding, or not reachable in CI · 2 pip-audit cannot be
installed here.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from local.cache import build_once, require_space
from local.errors import LocalRunError, UserActionRequired

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements" / "audit.txt"
IGNORED = Path(__file__).with_name("audit_ignored.toml")
NPM_LOCK = "package-lock.json"
NPM_LOCKS = (NPM_LOCK, "tests/browser/package-lock.json")
NOT_PACKAGES = "python.txt"
"""The archive of CPython; no database of packages has it."""

MAX_IGNORED = timedelta(days=180)
"""From the day of the check: an entry is looked at again twice a year."""

_NEEDED_GIB = 0.2
_TIMEOUT_S = 900
_UNREACHABLE = ("ConnectionError", "Could not connect", "Timeout", "HTTPError", "network may be blocking")
"""Of pip-audit's last lines: its database is not reachable, or answers with an error."""


class NotReachable(Exception):
    """A database did not answer; the message says how."""


@dataclass(frozen=True)
class Finding:
    """A known vulnerability of a locked package. advisories: its names in several databases."""

    lock: str
    package: str
    version: str
    advisories: frozenset[str]
    remedy: str

    def __str__(self) -> str:
        names = ", ".join(sorted(self.advisories))
        return f"{self.lock}: {self.package} {self.version} has {names}; {self.remedy}"


@dataclass(frozen=True)
class Ignored:
    """An accepted finding. expires: the day from which it is a finding again."""

    advisory: str
    package: str
    reason: str
    expires: date


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Run the check; return the exit code."""
    try:
        ignored = read_ignored(IGNORED.read_text())
        environment = ensure_pip_audit()
        results = audit(environment, environ)
    except (LocalRunError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UserActionRequired) else 1
    return report(results, ignored, datetime.now(UTC).date(), in_ci=environ.get("CI") == "true")


def audit(environment: Path, environ: Mapping[str, str]) -> dict[str, list[Finding] | str]:
    """Look up each lock file; return its findings, or why there is no answer, by the file's name."""
    results: dict[str, list[Finding] | str] = {}
    unreachable: dict[bool, str] = {}  # by whether it is npm's database: it is not waited for again
    for lock in lock_files(ROOT):
        is_npm = lock in NPM_LOCKS
        try:
            if is_npm in unreachable:
                results[lock] = unreachable[is_npm]
            elif is_npm:
                results[lock] = npm_findings(*_output(npm_audit_command(lock), environ), lock)
            else:
                results[lock] = python_findings(lock, *_output(pip_audit_command(environment, lock), environ))
        except NotReachable as error:
            results[lock] = unreachable[is_npm] = str(error)
    return results


def lock_files(root: Path) -> list[str]:
    """Return the names of all lock files, relative to `root`."""
    python = sorted(f"requirements/{path.name}" for path in (root / "requirements").glob("*.txt"))
    return [*(name for name in python if not name.endswith(f"/{NOT_PACKAGES}")), *NPM_LOCKS]


def npm_audit_command(lock: str) -> list[str]:
    """Return the command that looks up one of NPM_LOCKS."""
    return ["npm", "audit", "--json", "--package-lock-only", "--prefix", str((ROOT / lock).parent)]


def pip_audit_command(environment: Path, lock: str) -> list[str]:
    """Return the command that looks up a lock file as it is, and installs nothing."""
    return [
        str(environment / "bin" / "pip-audit"), "--requirement", lock, "--disable-pip", "--no-deps",
        "--vulnerability-service", "osv", "--format", "json", "--aliases", "on", "--progress-spinner", "off",
    ]  # fmt: skip


def report(results: Mapping[str, list[Finding] | str], ignored: Sequence[Ignored], today: date, *, in_ci: bool) -> int:
    """Print what was found; return the exit code."""
    unreachable = {lock: why for lock, why in results.items() if isinstance(why, str)}
    found = [each for findings in results.values() if not isinstance(findings, str) for each in findings]
    complaints = violations(found, ignored, today, is_complete=not unreachable)
    for lock, findings in results.items():
        if not isinstance(findings, str):
            print(f"{lock}: compared, {len(findings)} known vulnerabilities")
    for lock, why in unreachable.items():
        print(f"{lock}: NOT COMPARED: the database is not reachable: {why}", file=sys.stderr)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if unreachable and not in_ci:
        print("not reachable: run it again with a network; in CI (CI=true) this is a failure", file=sys.stderr)
    return 1 if complaints or (unreachable and in_ci) else 0


def violations(
    found: Iterable[Finding], ignored: Sequence[Ignored], today: date, *, is_complete: bool = True
) -> list[str]:
    """Return a message for each finding that is not ignored, and for each entry that is wrong or has expired.

    Args:
        found: in all lock files.
        ignored: the entries.
        today: decides which of them hold.
        is_complete: every lock file was looked up, so that an entry without a finding is one too many.

    Returns:
        One line each.
    """
    found = list(found)
    holds = {(each.advisory, each.package) for each in ignored if today < each.expires <= today + MAX_IGNORED}
    lines = [str(each) for each in found if not any((name, each.package) in holds for name in each.advisories)]
    seen = {(name, each.package) for each in found for name in each.advisories}
    for each in ignored:
        what = f"{IGNORED.name}: {each.advisory} of {each.package}"
        if each.expires <= today:
            lines.append(f"{what} expired on {each.expires}: update the package, or decide again")
        elif each.expires > today + MAX_IGNORED:
            lines.append(f"{what} expires on {each.expires}, more than {MAX_IGNORED.days} days from now")
        elif is_complete and (each.advisory, each.package) not in seen:
            lines.append(f"{what} is ignored, but there is no such finding any more")
    return lines


def read_ignored(text: str) -> list[Ignored]:
    """Parse the list. Raises ValueError with the entry that lacks a part."""
    entries = []
    for entry in tomllib.loads(text).get("ignored", []):
        texts = [str(entry.get(key, "")).strip() for key in ("advisory", "package", "reason")]
        expires = entry.get("expires")
        if not all(texts) or type(expires) is not date:
            raise ValueError(
                f"{IGNORED.name}: {entry} lacks an advisory, a package, a reason, or a date that it expires"
            )
        entries.append(Ignored(texts[0], texts[1], texts[2], expires))
    return entries


def python_findings(lock: str, output: str, errors: str) -> list[Finding]:
    """Parse pip-audit's report. Raises NotReachable, and LocalRunError where it gave none for another reason."""
    try:
        dependencies = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError) as error:
        last = (errors.strip() or output.strip() or "no output").splitlines()[-1][-300:]
        if any(sign in errors for sign in _UNREACHABLE):
            raise NotReachable(last) from error
        raise LocalRunError(f"{lock}: pip-audit gave no report: {last}") from error
    return [
        Finding(
            lock,
            each["name"],
            each["version"],
            frozenset({found["id"], *found["aliases"]}),
            f"fixed in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "not fixed yet",
        )
        for each in dependencies
        for found in each.get("vulns", [])
    ]


def npm_findings(output: str, errors: str = "", lock: str = NPM_LOCK) -> list[Finding]:
    """Parse npm audit's report. Raises NotReachable, and LocalRunError where it gave none for another reason."""
    try:
        document = json.loads(output)
    except ValueError as error:
        raise LocalRunError(f"{lock}: npm audit gave no report: {(errors or output).strip()[-300:]}") from error
    if "vulnerabilities" not in document:
        raise _npm_error(document, lock)
    found = []
    for name, package in document["vulnerabilities"].items():
        advisories = {_advisory(via["url"]) for via in package["via"] if isinstance(via, dict)}
        if advisories:  # else it only depends on a package that has one
            remedy = "npm audit fix mends it" if package["fixAvailable"] is True else f"affected: {package['range']}"
            found.append(Finding(lock, name, package["range"], frozenset(advisories), remedy))
    return found


def _npm_error(document: Mapping[str, Any], lock: str) -> Exception:
    message = str(document.get("message") or document.get("error") or document)[:300]
    is_answer = document.get("statusCode") in {400, 401, 403}
    return LocalRunError(f"{lock}: npm audit failed: {message}") if is_answer else NotReachable(message)


def _advisory(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


def ensure_pip_audit() -> Path:
    """Return the environment's folder; create it if needed. Raises UserActionRequired."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    return build_once(f"audit-{digest}-py{sys.version_info.major}.{sys.version_info.minor}", _install)


def _install(folder: Path) -> None:
    require_space(_NEEDED_GIB)
    print(f"pip-audit: a new environment in {folder}", flush=True)
    uv, python = str(Path(sys.executable).parent / "uv"), str(folder / "bin" / "python")
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "--requirement", str(LOCK)],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            last_line = (str(error.stderr or "").strip() or "no output").splitlines()[-1]
            message = f"pip-audit cannot be installed; check the network and run again ({last_line})"
            raise UserActionRequired(message) from error


def _output(command: Sequence[str], environ: Mapping[str, str]) -> tuple[str, str]:
    """Run a command; return its standard output and its errors: both tools end with 1 for a finding and for a fault."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=dict(environ), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NotReachable(f"no answer within {_TIMEOUT_S} s") from error
    except OSError as error:
        raise LocalRunError(f"{command[0]} cannot be run: {error}") from error
    return done.stdout, done.stderr


if __name__ == "__main__":
    sys.exit(main())

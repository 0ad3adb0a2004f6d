"""Find and run the CDK's command-line tool and the app that it deploys.

In a checkout the checkout's app is deployed, as the workflow does; elsewhere the app that is installed with the
command.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import stacks
from cli.aws_errors import CONTINUE_ADVICE, SIGN_IN_ADVICE
from cli.core.cdk_output import (
    failure_excerpt,
    is_busy,
    is_expired,
    parse_completion,
    parse_progress,
    strip_colors,
)
from cli.core.doctor import NEEDED_NODE
from cli.errors import CliError, Failed, NoAccess, TimedOut, ToolMissing
from stacks.settings import SETTINGS_FILE, SETTINGS_FILE_KEY

_ENVIRONMENT = {
    "CDK_DISABLE_CLI_TELEMETRY": "true",
    # Turns off the tool's warning about the end of life of this version of Node.js.
    "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "20",
    "FORCE_COLOR": "0",
}
_KEPT_LINES = 400
_SYNTH_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Project:
    """The app to deploy."""

    root: Path
    """The folder of app.py and the code that it deploys."""

    folder: Path
    """Where the tool runs; it contains cdk.json."""

    settings: Path | None
    """The settings' file; None where there is none."""

    @property
    def pinned_version(self) -> str:
        """The version of the tool that fits the app's library. Raises Failed where package.json is missing."""
        document = json.loads(installed_file(self.root, "package.json").read_text())
        return str(document["devDependencies"]["aws-cdk"])


def find_project(here: Path, cache: Path) -> Project:
    """Find the project. here: the working directory; cache: where the tool runs outside a checkout."""
    for folder in (here, *here.parents):
        if all((folder / name).is_file() for name in ("app.py", "cdk.json", "stacks/settings.py")):
            settings = folder / SETTINGS_FILE
            return Project(folder, folder, settings if settings.is_file() else None)
    root = Path(stacks.__file__).resolve().parents[1]
    folder = cache / "cdk"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cdk.json").write_bytes(installed_file(root, "cdk.json").read_bytes())
    settings = here / SETTINGS_FILE
    return Project(root, folder, settings if settings.is_file() else None)


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of the tool's logs and outputs, which may be deleted at any time."""
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "synkti"


def node_version() -> int | None:
    """Return Node.js's major version; None without Node.js or npm."""
    node = shutil.which("node")
    if node is None or shutil.which("npx") is None:
        return None
    output = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = output.removeprefix("v").split(".")[0]
    return int(major) if major.isdigit() else None


def tool_command(project: Project) -> list[str]:
    """Return the command that runs the pinned tool. Raises ToolMissing."""
    version = node_version()
    if version is None or version < NEEDED_NODE:
        found = "Node.js is not installed" if version is None else f"Node.js {version} is too old"
        raise ToolMissing(f"{found}; the CDK's command-line tool runs on it", f"install Node.js {NEEDED_NODE} or newer")
    for folder in (project.root, project.folder):
        if (folder / "node_modules" / ".bin" / "cdk").is_file():
            return [str(folder / "node_modules" / ".bin" / "cdk")]
    return ["npx", "--yes", f"aws-cdk@{project.pinned_version}"]


class Cdk:
    """Runs the CDK's command-line tool.

    Args:
        project: the app.
        environ: the tool's environment.
        context: settings that override the file.
        log: the file to which the tool's output is appended.
        on_done: called with a line for each completed step.
        on_progress: called with the current step, many times a second.
    """

    def __init__(
        self,
        project: Project,
        environ: Mapping[str, str],
        context: Mapping[str, str],
        log: Path,
        on_done: Callable[[str], None],
        on_progress: Callable[[str], None] = lambda what: None,
    ) -> None:
        self._project = project
        self._environ = {**environ, **_ENVIRONMENT}
        self._context = context
        self._log = log
        self._on_done = on_done
        self.on_progress = on_progress
        self._tool = tool_command(project)
        log.parent.mkdir(parents=True, exist_ok=True)

    def synth(self, output: Path) -> Path:
        """Synthesize the cloud assembly into `output` and return it. Raises Failed, ToolMissing."""
        app = shlex.join([sys.executable, str(self._project.root / "app.py")])
        settings = str(self._project.settings) if self._project.settings else ""
        context = {SETTINGS_FILE_KEY: settings, **self._context}
        pairs = [word for key, value in context.items() for word in ("-c", f"{key}={value}")]
        self._run("synth", "--quiet", "--all", "--app", app, "--output", str(output), *pairs, within_s=_SYNTH_TIMEOUT_S)
        return output

    def bootstrap(self, account: str, region: str) -> None:
        """Deploy the CDK's own stack. Raises Failed, ToolMissing."""
        # In a folder with a cdk.json the tool would needlessly synthesize the app first.
        outside = self._log.parent / "outside"
        outside.mkdir(exist_ok=True)
        self._run("bootstrap", f"aws://{account}/{region}", within_s=_SYNTH_TIMEOUT_S, folder=outside)

    def deploy(self, assembly: Path, names: Sequence[str], *, direct: bool, within_s: float) -> None:
        """Deploy stacks.

        Args:
            assembly: the synthesized templates.
            names: of the stacks; empty for all.
            direct: without a change set, which is faster but cannot be reviewed.
            within_s: how long it may take, in seconds; an instance refresh of a large fleet is slow.

        Raises Failed, ToolMissing, TimedOut.
        """
        words = ["deploy", *(names or ["--all"]), "--app", str(assembly), "--require-approval", "never"]
        words += ["--progress", "events", "--concurrency", "3", *(["--method", "direct"] if direct else [])]
        self._run(*words, within_s=within_s)

    def _run(self, *words: str, within_s: float, folder: Path | None = None) -> None:
        """Run the tool; write its output to the log, and a summary to the callbacks."""
        kept: deque[str] = deque(maxlen=_KEPT_LINES)
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"$ cdk {shlex.join(words)}\n")
            process = self._start(words, folder or self._project.folder)
            late = threading.Timer(within_s, process.terminate)
            late.start()
            with process:  # waits for its end, also after an exception
                try:
                    for raw in process.stdout or ():
                        line = strip_colors(raw)
                        log.write(line + "\n")
                        kept.append(line)
                        self._follow(line)
                    status = process.wait()
                finally:
                    timely = late.is_alive()
                    late.cancel()
                    process.terminate()  # if this process is interrupted
        if not timely:
            raise TimedOut(f"cdk {words[0]} did not end within {within_s:.0f} s", f"its output: {self._log}")
        if status:
            raise self._failure(words[0], failure_excerpt(list(kept)))

    def _failure(self, verb: str, excerpt: str) -> CliError:
        """Return the error for the tool's own words: expired credentials, another deployment, or what they are."""
        output = f"its whole output: {self._log}"
        if is_expired(excerpt):
            return NoAccess(f"the credentials expired during cdk {verb}", f"{SIGN_IN_ADVICE}; {CONTINUE_ADVICE}")
        if is_busy(excerpt):
            advice = f"wait until it has ended, then run the command again; {output}"
            return Failed(f"another operation on a stack is under way:\n{excerpt}", advice)
        return Failed(f"cdk {verb} failed:\n{excerpt}", output)

    def _start(self, words: Sequence[str], folder: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._tool, *words],
            cwd=folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def _follow(self, line: str) -> None:
        if (what := parse_progress(line)) is not None:
            self.on_progress(what)
        elif (done := parse_completion(line)) is not None:
            self._on_done(done)


def required_toolkit(assembly: Path) -> int:
    """Return the version of the CDK's own stack that the templates require."""
    artifacts = json.loads((assembly / "manifest.json").read_text()).get("artifacts", {}).values()
    versions = [each.get("properties", {}).get("requiresBootstrapStackVersion", 0) for each in artifacts]
    return max((int(version) for version in versions), default=0)


def templates_of(assembly: Path) -> dict[str, Path]:
    """Return each stack's template file."""
    artifacts = json.loads((assembly / "manifest.json").read_text()).get("artifacts", {})
    return {
        name: assembly / each["properties"]["templateFile"]
        for name, each in artifacts.items()
        if each.get("type") == "aws:cloudformation:stack"
    }


def installed_file(root: Path, name: str) -> Path:
    """Return a file that is beside app.py in a checkout, else in the installed data. Raises Failed."""
    for folder in (root, Path(sys.prefix) / "share" / "synkti"):
        if (folder / name).is_file():
            return folder / name
    raise Failed(f"{name} is missing from this installation", "install synkti again, or run it in a checkout")

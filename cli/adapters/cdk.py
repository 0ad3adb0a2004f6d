"""The CDK's command-line tool: where it is, where the app is that it deploys, and how it is run.

In a checkout the checkout's own app is deployed, so that a person deploys what the workflow would; anywhere else it is
the app that was installed with the command.
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
from cli.core.cdk_output import ended, failure, plain, under_way
from cli.core.doctor import NEEDED_NODE
from cli.errors import Failed, TimedOut, ToolMissing
from stacks.settings import SETTINGS_FILE, SETTINGS_FILE_KEY

_QUIET = {
    "CDK_DISABLE_CLI_TELEMETRY": "true",
    # It wants to hear which versions of Node.js are known to be old.
    "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "20",
    "FORCE_COLOR": "0",
}
_KEPT_LINES = 400
_DEPLOY_WITHIN_S = 7_200.0
"""An instance refresh of a large fleet takes its time; GitHub's job has the same bound."""

_SYNTH_WITHIN_S = 600.0


@dataclass(frozen=True)
class Project:
    """root: where app.py and what it deploys are; folder: where the tool runs, with cdk.json; settings: the file."""

    root: Path
    folder: Path
    settings: Path | None

    @property
    def pinned(self) -> str:
        """The version of the tool that fits the app's library."""
        document = json.loads(_shipped(self.root, "package.json").read_text())
        return str(document["devDependencies"]["aws-cdk"])


def find_project(here: Path, cache: Path) -> Project:
    """here: the working directory; cache: where the tool works when there is no checkout."""
    for folder in (here, *here.parents):
        if all((folder / name).is_file() for name in ("app.py", "cdk.json", "stacks/settings.py")):
            settings = folder / SETTINGS_FILE
            return Project(folder, folder, settings if settings.is_file() else None)
    root = Path(stacks.__file__).resolve().parents[1]
    folder = cache / "cdk"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cdk.json").write_bytes(_shipped(root, "cdk.json").read_bytes())
    settings = here / SETTINGS_FILE
    return Project(root, folder, settings if settings.is_file() else None)


def cache_folder(environ: Mapping[str, str]) -> Path:
    """What may be thrown away: logs of the tool, its work."""
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "synkti"


def node_version() -> int | None:
    """Node's major version; None where there is no Node, or no npm with it."""
    node = shutil.which("node")
    if node is None or shutil.which("npx") is None:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = said.removeprefix("v").split(".")[0]
    return int(major) if major.isdigit() else None


def tool(project: Project) -> list[str]:
    """The command that runs the pinned tool. Raises ToolMissing."""
    version = node_version()
    if version is None or version < NEEDED_NODE:
        found = "Node.js is not installed" if version is None else f"Node.js {version} is too old"
        raise ToolMissing(f"{found}; the CDK's command-line tool runs on it", f"install Node.js {NEEDED_NODE} or newer")
    for folder in (project.root, project.folder):
        if (folder / "node_modules" / ".bin" / "cdk").is_file():
            return [str(folder / "node_modules" / ".bin" / "cdk")]
    return ["npx", "--yes", f"aws-cdk@{project.pinned}"]


class Cdk:
    """context: settings above the file; log: takes all that the tool prints.

    tell: hears what is done; show: what is going on, many times a second.
    """

    def __init__(
        self,
        project: Project,
        environ: Mapping[str, str],
        context: Mapping[str, str],
        log: Path,
        tell: Callable[[str], None],
        show: Callable[[str], None] = lambda what: None,
    ) -> None:
        self._project = project
        self._environ = {**environ, **_QUIET}
        self._context = context
        self._log = log
        self._tell = tell
        self.show = show
        self._tool = tool(project)
        log.parent.mkdir(parents=True, exist_ok=True)

    def synth(self, output: Path) -> Path:
        """The cloud assembly, in `output`. Raises Failed, ToolMissing."""
        app = shlex.join([sys.executable, str(self._project.root / "app.py")])
        settings = str(self._project.settings) if self._project.settings else ""
        context = {SETTINGS_FILE_KEY: settings, **self._context}
        pairs = [word for key, value in context.items() for word in ("-c", f"{key}={value}")]
        self._run("synth", "--quiet", "--all", "--app", app, "--output", str(output), *pairs, within_s=_SYNTH_WITHIN_S)
        return output

    def bootstrap(self, account: str, region: str) -> None:
        """The CDK's own stack. Raises Failed, ToolMissing."""
        # Where there is a cdk.json the tool would synthesize the app first, for nothing.
        outside = self._log.parent / "outside"
        outside.mkdir(exist_ok=True)
        self._run("bootstrap", f"aws://{account}/{region}", within_s=_SYNTH_WITHIN_S, folder=outside)

    def deploy(self, assembly: Path, names: Sequence[str], *, direct: bool) -> None:
        """names: of stacks; none for all. direct: without a change set, which is quicker, and which nobody can look at.

        Raises Failed, ToolMissing, TimedOut.
        """
        words = ["deploy", *(names or ["--all"]), "--app", str(assembly), "--require-approval", "never"]
        words += ["--progress", "events", "--concurrency", "3", *(["--method", "direct"] if direct else [])]
        self._run(*words, within_s=_DEPLOY_WITHIN_S)

    def _run(self, *words: str, within_s: float, folder: Path | None = None) -> None:
        """Run the tool to its end, its output in the log and, in short, on the screen."""
        kept: deque[str] = deque(maxlen=_KEPT_LINES)
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"$ cdk {shlex.join(words)}\n")
            process = self._start(words, folder or self._project.folder)
            late = threading.Timer(within_s, process.terminate)
            late.start()
            with process:  # waits for its end, whatever happens here
                try:
                    for raw in process.stdout or ():
                        line = plain(raw)
                        log.write(line + "\n")
                        kept.append(line)
                        self._follow(line)
                    status = process.wait()
                finally:
                    timely = late.is_alive()
                    late.cancel()
                    process.terminate()  # where this one was interrupted
        if not timely:
            raise TimedOut(f"cdk {words[0]} did not end within {within_s:.0f} s", f"its output: {self._log}")
        if status:
            raise Failed(f"cdk {words[0]} failed:\n{failure(list(kept))}", f"its whole output: {self._log}")

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
        if (what := under_way(line)) is not None:
            self.show(what)
        elif (done := ended(line)) is not None:
            self._tell(done)


def needed_toolkit(assembly: Path) -> int:
    """The version of the CDK's own stack that the templates ask for."""
    artifacts = json.loads((assembly / "manifest.json").read_text()).get("artifacts", {}).values()
    asked = [each.get("properties", {}).get("requiresBootstrapStackVersion", 0) for each in artifacts]
    return max((int(version) for version in asked), default=0)


def templates_of(assembly: Path) -> dict[str, Path]:
    """The template's file for each stack."""
    artifacts = json.loads((assembly / "manifest.json").read_text()).get("artifacts", {})
    return {
        name: assembly / each["properties"]["templateFile"]
        for name, each in artifacts.items()
        if each.get("type") == "aws:cloudformation:stack"
    }


def _shipped(root: Path, name: str) -> Path:
    """A file that lies beside app.py in a checkout, and among the installed data otherwise. Raises Failed."""
    for folder in (root, Path(sys.prefix) / "share" / "synkti"):
        if (folder / name).is_file():
            return folder / name
    raise Failed(f"{name} is missing from this installation", "install synkti again, or run it in a checkout")

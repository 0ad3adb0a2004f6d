"""`synkti drill first-day`: check on a real fleet what no emulator can show, and write a report."""

from __future__ import annotations

import json
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import boto3
import typer

from cli.core.first_day.redaction import Redactor
from cli.core.first_day.report import Report
from cli.errors import BadUsage, Failed
from cli.exit_codes import ExitCode
from cli.first_day.day import DayOptions, FirstDay
from cli.first_day.fallback import fallback_step
from cli.first_day.losses import drain_step, interruption_step
from cli.first_day.notified import alarm_step
from cli.first_day.observed import fleet_step, launch_step, tag_step
from cli.first_day.run import Step, run_steps
from cli.fleet import Fleet, open_fleet
from cli.options import Cluster, Json, Profile, Region, Yes
from cli.polling import Clock
from cli.terminal import Terminal

CLOCK = Clock()

STEPS: tuple[Step, ...] = (
    Step("fleet", "The nodes serve", fleet_step),
    Step(
        "launch",
        "Nodes complete the launch hook",
        launch_step,
        not_embedded="the embedded AWS records no lifecycle of instances",
    ),
    Step(
        "tags",
        "A node tags only itself",
        tag_step,
        not_embedded="the embedded AWS runs no command on a node, and evaluates no policy",
    ),
    Step("alarm", "An alarm's mail arrives", alarm_step),
    Step(
        "drain",
        "A node that the group terminates drains, and completes the hook",
        drain_step,
        "Have the group terminate one node, which drains, and replace it?",
        not_embedded="the embedded AWS only records the group: it terminates no instance",
    ),
    Step(
        "interruption",
        "A stream survives a real interruption",
        interruption_step,
        "Have EC2 reclaim one spot node by the Fault Injection Service (two minutes after its notice)?",
        not_embedded="the embedded AWS has no Fault Injection Service",
    ),
    Step(
        "fallback",
        "The on-demand base rises and returns",
        fallback_step,
        "Raise the on-demand base by one for about 20 minutes (the group may replace a spot node and replace it back)?",
    ),
)


Only = Annotated[
    list[str] | None,
    typer.Option("--step", metavar="STEP", help="Run this step only; may be repeated.", show_default=False),
]
ReportFolder = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the report is written.", file_okay=False)]
FisRole = Annotated[
    str | None,
    typer.Option(
        metavar="ARN",
        envvar="SYNKTI_FIS_ROLE",
        help="The role of the experiment (interruption).",
        show_default=False,
    ),
]
Urls = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="A node's base URL, where its address is not reached; may be repeated.",
        show_default=False,
    ),
]
Within = Annotated[int, typer.Option(help="Seconds until a lost node has to be replaced.", min=60, max=86_400)]


def first_day(
    only: Only = None,
    report: ReportFolder = Path(),
    fis_role: FisRole = None,
    url: Urls = None,
    within: Within = 2_700,
    yes: Yes = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Check on a real fleet what no emulator can show, and write a report for an issue.

    Steps: fleet, launch (lifecycle hook), tags (a node tags only itself), alarm (its mail), drain (the group terminates
    a node), interruption (EC2 reclaims a node, with a stream open), fallback (the on-demand base rises and returns).

    The last three interrupt a node, and are confirmed one by one. Each step undoes what it changed, also at Ctrl-C.
    All together take about an hour, and cost the two nodes' replacements and at most one on-demand node for half of it.
    A step that cannot run has its reason in the report. The report (Markdown and JSON) has no secrets, addresses or
    account numbers.

    \b
    Examples:
      synkti drill first-day
      synkti drill first-day --step fleet --step launch --step tags     # changes nothing
      synkti drill first-day --yes --fis-role arn:aws:iam::123456789012:role/synkti-drills

    \f

    Raises:
        typer.Exit: a step found something wrong.
        KeyboardInterrupt: it was stopped; the report is written.
    """
    steps = _selected(only or ())
    fleet = open_fleet(cluster, region, profile)
    options = DayOptions(yes, fis_role, tuple(_checked(each) for each in url or ()), float(within))
    made = _run(FirstDay(Terminal(as_json), fleet, options, CLOCK, time.time), steps, report)
    if made.interrupted:
        raise KeyboardInterrupt
    if made.failed:
        raise typer.Exit(ExitCode.FINDINGS)


def _run(day: FirstDay, steps: Sequence[Step], folder: Path) -> Report:
    """Run the steps; write the report into the folder, print it, and return it. Raises Failed as `_write`."""
    began, start = day.wall(), day.clock.now()
    with _sigterm_as_ctrl_c():
        records, interrupted = run_steps(day, steps)
    made = Report(_environment(day.fleet), began, day.clock.now() - start, records, interrupted)
    made = made.redacted(_redactor(day.fleet, day.options))
    paths = _write(made, folder)
    day.terminal.document({**made.document(), "files": [str(path) for path in paths]})
    day.terminal.line(made.summary)
    day.terminal.status(f"the report: {', '.join(map(str, paths))}; read it before you attach it to an issue")
    return made


def _selected(names: Sequence[str]) -> tuple[Step, ...]:
    """Return the named steps, all where none is named. Raises BadUsage."""
    known = [step.name for step in STEPS]
    if unknown := [name for name in names if name not in known]:
        raise BadUsage(f"there is no step {unknown[0]!r}", f"steps: {', '.join(known)}")
    return tuple(step for step in STEPS if not names or step.name in names)


def _checked(url: str) -> str:
    """Return a base URL. Raises BadUsage."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise BadUsage(f"--url {url!r} is no base URL", "such as --url http://127.0.0.1:8000")
    return url.rstrip("/")


def _environment(fleet: Fleet) -> dict[str, Any]:
    return {
        "region": fleet.account.region,
        "embedded_aws": fleet.account.is_embedded,
        "version": fleet.output("FleetVersion") or "not known",
        "python": platform.python_version(),
        "boto3": boto3.__version__,
    }


def _redactor(fleet: Fleet, options: DayOptions) -> Redactor:
    """Return a redactor of what is known to be secret; patterns find the rest."""
    known = {fleet.account.identity.account: "<account>"}
    endpoint = fleet.output("Endpoint")
    for url in (*options.urls, *([endpoint] if endpoint else ())):
        known[urlsplit(url).hostname or ""] = "<host>"
    if fleet.account.profile:
        known[fleet.account.profile] = "<profile>"
    return Redactor(known)


def _write(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write both forms of the report. Raises Failed where that is not possible; the terminal has it all the same."""
    stamp = datetime.fromtimestamp(report.began, UTC).strftime("%Y%m%dT%H%M%SZ")
    markdown, document = (folder / f"synkti-first-day-{stamp}.{ending}" for ending in ("md", "json"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        markdown.write_text(report.markdown(), encoding="utf-8")
        document.write_text(json.dumps(report.document(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise Failed(f"the report could not be written to {folder}: {error.strerror}", "--report FOLDER") from error
    return markdown, document


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Have SIGTERM interrupt as Ctrl-C does, so that a cancelled job undoes what it changed, too."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

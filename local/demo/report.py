"""Writes the certificate and prints it in four lines; prints what a reader can try by hand."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from local import certificate as certificates
from local.aws import REGION
from local.demo.context import DemoContext
from local.process_cleanup import processes_in

_KINDS = {
    "notice": "notice",
    "sigkill": "SIGKILL of the engine's node",
    "entry-sigkill": "SIGKILL of the client's node",
}


def write_report(context: DemoContext, document: dict[str, Any], path: Path) -> bool:
    """Write the certificate to `path`, print it, and return whether it passed."""
    path.write_text(certificates.to_json(document))
    is_passed = certificates.passed(document)
    context.screen.heading("The continuity certificate")
    lines = certificate_lines(document, context.plain, os.path.relpath(path))
    for number, line in enumerate(lines):
        context.screen.print_text(f"  {line}", style=("bold green" if is_passed else "bold red") if number == 0 else "")
    return is_passed


def certificate_lines(document: dict[str, Any], plain: tuple[int, int, str | None] | None, path: str) -> list[str]:
    """Return the certificate in four lines. Pure.

    Args:
        document: as `certificate.build_certificate` builds it.
        plain: the tokens that plain vLLM delivered, of how many, and the client's error; None: not compared.
        path: of the whole document.

    Returns:
        The verdict, the streams, the pauses, and where the whole document is.
    """
    tokens, by_kind = document["tokens"], document["pause_ms"]["by_kind"]
    pauses = ", ".join(f"{by_kind[kind]['p50']:.0f} ms ({name})" for kind, name in _KINDS.items() if kind in by_kind)
    verdict = "KEPT" if certificates.passed(document) else "BROKEN"
    beside = f" (plain vLLM lost {plain[1] - plain[0]} of {plain[1]})" if plain is not None else ""
    return [
        f"{verdict}: an interruption costs a client a pause, never a token",
        f"{document['streams']} streams, {document['interruptions']['total']} interruptions: "
        f"{tokens['delivered']} tokens, {tokens['lost']} lost, {tokens['duplicated']} duplicated, "
        f"{document['client_errors']} errors{beside}",
        f"pauses: {pauses}",
        f"{document['chains_verified']} of {document['streams']} SHA-256 chains equal the uninterrupted answer's: "
        f"{path}",
    ]


async def invite(context: DemoContext) -> None:
    """Print the URL that outlives every node, and lines to paste."""
    if context.gateway is None:
        raise AssertionError("the third act starts the gateway")
    victim, screen, url = context.emulator.instances[0], context.screen, context.gateway.url
    processes = " ".join(map(str, sorted(processes_in(victim.folder))))
    body = (
        f'{{"model": "{context.model}", "stream": true, "max_tokens": 3000, '
        '"messages": [{"role": "user", "content": "Tell me a story about a lighthouse."}]}'
    )
    screen.heading("Your turn (until Ctrl-C)")
    screen.print_text(f"  {url}/v1 is the gateway: it outlives every node. In another terminal:")
    for line in (
        f"curl -N {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'",
        f"kill -9 {processes}    # all of {victim.instance_id}, while the answer runs",
        nodes_command(context),
    ):
        screen.print_text(line, style="cyan")
    if await _has_page(context):
        screen.print_text(f"  and in a browser: {victim.url}/ui")


def nodes_command(context: DemoContext) -> str:
    """Return the command that lists the nodes of the embedded AWS as of a real account."""
    environ = context.aws.environ()
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    given = " ".join(f"{name}={shlex.quote(environ[name])}" for name in names)
    return f"{given} AWS_REGION={REGION} .venv/bin/synkti nodes --cluster {context.deployed.cluster}"


async def _has_page(context: DemoContext) -> bool:
    response = await context.http.get(f"{context.emulator.instances[0].url}/ui")
    return response.status_code == 200

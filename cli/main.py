"""All commands of `synkti`, each in a file of its own."""

from __future__ import annotations

import typer

from cli.gateway import gateway

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def synkti() -> None:
    """Serve open LLMs on spot GPUs: an interruption costs a client a pause, never a token."""


app.command()(gateway)

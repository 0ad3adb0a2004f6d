"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        envvar="SYNKTI_CLUSTER",
        help="The cluster's name. Not needed if there is only one, or if synkti.toml has it.",
        show_default=False,
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        "--region", help="The AWS region; by default synkti.toml's, else the configured one.", show_default=False
    ),
]
Profile = Annotated[
    str | None,
    typer.Option("--profile", help="A profile of AWS's configuration; by default the default one.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        "-c",
        metavar="KEY=VALUE",
        help="A setting that overrides synkti.toml; may be repeated.",
        show_default=False,
    ),
]

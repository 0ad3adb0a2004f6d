"""Options that several commands have, said once."""

from __future__ import annotations

from typing import Annotated

import typer

Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        envvar="SYNKTI_CLUSTER",
        help="The cluster's name. Not needed where there is one only, or where synkti.toml has it.",
        show_default=False,
    ),
]
Region = Annotated[
    str | None,
    typer.Option("--region", help="The AWS region; else synkti.toml's, else the configured one.", show_default=False),
]
Profile = Annotated[
    str | None,
    typer.Option("--profile", help="A profile of AWS's configuration; else the default one.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        "-c",
        metavar="KEY=VALUE",
        help="A setting, above synkti.toml; may be repeated.",
        show_default=False,
    ),
]

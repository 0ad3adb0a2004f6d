"""All commands of `synkti`, each in a file of its own; and what becomes of their errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer
from botocore.exceptions import BotoCoreError, ClientError
from typer.exceptions import TyperException

from cli import model
from cli.aws_errors import explained
from cli.bootstrap import bootstrap
from cli.connect import connect
from cli.destroy import destroy
from cli.doctor import doctor
from cli.drain import drain
from cli.drill import drill
from cli.endpoint import endpoint
from cli.errors import BadConfiguration, CliError, Failed
from cli.exit_codes import ExitCode
from cli.gateway import gateway
from cli.logs import logs
from cli.nodes import nodes
from cli.scale import scale
from cli.stop import stop
from node_agent.contract.errors import ConfigurationError, SynktiError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"synkti {own_version()}")
        raise typer.Exit


@app.callback()
def synkti(
    version: Annotated[
        bool, typer.Option("--version", help="Which one this is.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Serve open LLMs on spot GPUs: an interruption costs a client a pause, never a token.

    \b
    First:   synkti doctor      what is missing
             synkti bootstrap   from an account to a fleet
    Then:    git push           every push deploys (docs/gitops.md)
    """


def own_version() -> str:
    """Of the installed package; in a checkout there is none."""
    try:
        return metadata.version("synkti")
    except metadata.PackageNotFoundError:
        return "(a checkout)"


app.command(short_help="From an AWS account to a fleet that answers.")(bootstrap)
app.command(short_help="Look at everything that a deployment needs.")(doctor)
app.command(short_help="Who is there, and whether the fleet is as it should be.")(nodes)
app.command(short_help="The base URL for OpenAI clients.")(endpoint)
app.command(short_help="A shell on a node, or one of its ports here.")(connect)
app.command(short_help="What a node writes, or has written.")(logs)
app.command(short_help="One node ends, and no stream with it.")(drain)
app.command(short_help="Rehearse the loss of a node.")(drill)
app.command(short_help="Keep N nodes.")(scale)
app.command(short_help="Keep no nodes; nothing is lost.")(stop)
app.command(short_help="Everything away but the models.")(destroy)
app.add_typer(model.app, name="model", short_help="Models in S3: push, ls, rm.")
app.command(short_help="A proxy: stock clients survive the loss of any node.")(gateway)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. A person's mistake is a sentence, never a stack trace; a bug is one."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        returned = app(args=given, prog_name="synkti", standalone_mode=False)
    except TyperException as error:
        return _unusable(error)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except CliError as error:
        return _failed(error, given)
    except (BotoCoreError, ClientError) as error:
        return _failed(explained(error), given)
    except ConfigurationError as error:
        return _failed(BadConfiguration("; ".join(error.faults)), given)
    except SynktiError as error:
        return _failed(Failed(str(error)), given)
    return returned if isinstance(returned, int) else ExitCode.DONE


def _failed(error: CliError, argv: Sequence[str]) -> int:
    if "--json" in argv:
        print(json.dumps(error.document(), indent=2))
        return error.exit_code
    print(f"synkti: {error.message}", file=sys.stderr)
    if error.advice:
        print(f"  {error.advice}", file=sys.stderr)
    return error.exit_code


def _unusable(error: TyperException) -> int:
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    return int(getattr(error, "exit_code", ExitCode.USAGE))


def run() -> None:
    """The entry point of the installed command."""
    sys.exit(main())

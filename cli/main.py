"""Register all commands of `synkti`, run one, and convert its errors to messages and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer
from botocore.exceptions import BotoCoreError, ClientError
from typer.exceptions import TyperException

from cli import cluster_key, drill, keys, model
from cli.aws_errors import to_cli_error
from cli.bootstrap import bootstrap
from cli.connect import connect
from cli.cost import cost
from cli.destroy import destroy
from cli.doctor import doctor
from cli.drain import drain
from cli.endpoint import endpoint
from cli.errors import BadConfiguration, CliError, Failed
from cli.exit_codes import ExitCode
from cli.gateway import gateway
from cli.logs import logs
from cli.nodes import nodes
from cli.plan import plan
from cli.resume import resume
from cli.scale import scale
from cli.shut_out import shut_out
from cli.stop import stop
from cli.streams import streams
from cli.wheelhouse import wheelhouse
from node_agent.contract.errors import ConfigurationError, SynktiError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"synkti {own_version()}")
        raise typer.Exit


@app.callback()
def synkti(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Serve open LLMs on spot GPUs: an interruption costs a client a pause, never a token.

    \b
    First:   synkti plan MODEL  compare instance types for a model
             synkti cost        estimate what a deployment costs
             synkti doctor      check what is missing
             synkti bootstrap   deploy a fleet
    Then:    git push           every push deploys (docs/gitops.md)
    """


def own_version() -> str:
    """Return the installed package's version; a checkout has none."""
    try:
        return metadata.version("synkti")
    except metadata.PackageNotFoundError:
        return "(a checkout)"


app.command(short_help="Compare instance types for a model: fit, context, price.")(plan)
app.command(short_help="Estimate what a deployment costs a month.")(cost)
app.command(short_help="Deploy a fleet to an AWS account.")(bootstrap)
app.command(short_help="Check everything that a deployment needs.")(doctor)
app.command(short_help="List the nodes and the state of the fleet.")(nodes)
app.command(short_help="List streams, and those that lost nodes left.")(streams)
app.command(short_help="Print the base URL for OpenAI clients.")(endpoint)
app.add_typer(keys.app, name="keys", short_help="Keys of clients: create, list, revoke, rotate.")
app.command(short_help="Open a shell on a node, or forward a port.")(connect)
app.command(short_help="Print a node's log.")(logs)
app.command(short_help="Drain a node and terminate its instance.")(drain)
app.command(short_help="Exclude a node that may be in someone else's hands.")(shut_out)
app.add_typer(cluster_key.app, name="cluster-key", short_help="The key with which nodes sign: status, rotate.")
app.add_typer(drill.app, name="drill", short_help="Rehearse the loss of a node, or check a new fleet.")
app.command(short_help="Set the number of nodes.")(scale)
app.command(short_help="Set the number of nodes to zero.")(stop)
app.command(short_help="Launch nodes again after some gave up.")(resume)
app.command(short_help="Delete everything but models and records.")(destroy)
app.add_typer(model.app, name="model", short_help="Models in S3: push, ls, rm.")
app.command(short_help="Upload the packages that nodes install.")(wheelhouse)
app.command(short_help="Run a proxy: stock clients survive the loss of any node.")(gateway)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. User errors print a sentence; only bugs print a stack trace."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        returned = app(args=given, prog_name="synkti", standalone_mode=False)
    except TyperException as error:
        return _usage_error(error)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except CliError as error:
        return _report(error, given)
    except (BotoCoreError, ClientError) as error:
        return _report(to_cli_error(error), given)
    except ConfigurationError as error:
        return _report(BadConfiguration("; ".join(error.faults)), given)
    except SynktiError as error:
        return _report(Failed(str(error)), given)
    return returned if isinstance(returned, int) else ExitCode.DONE


def _report(error: CliError, argv: Sequence[str]) -> int:
    if "--json" in argv:
        print(json.dumps(error.document(), indent=2))
        return error.exit_code
    print(f"synkti: {error.message}", file=sys.stderr)
    if error.advice:
        print(f"  {error.advice}", file=sys.stderr)
    return error.exit_code


def _usage_error(error: TyperException) -> int:
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    return int(getattr(error, "exit_code", ExitCode.USAGE))


def run() -> None:
    """The entry point of the installed command."""
    sys.exit(main())

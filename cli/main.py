"""Register all commands of `synkti`, run one, and convert its errors to messages and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cli.commands import LazyGroup
from cli.errors import BadConfiguration, CliError, Failed
from cli.exit_codes import ExitCode
from node_agent.contract.errors import ConfigurationError, SynktiError

app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


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
    First:   synkti init        write the settings
             synkti plan MODEL  compare instance types for a model
             synkti doctor      check what is missing
             synkti bootstrap   deploy a fleet
    Then:    synkti status      is it healthy?
             git push           every push deploys (docs/gitops.md)
    """


def own_version() -> str:
    """Return the installed package's version; a checkout has none."""
    from importlib import metadata  # noqa: PLC0415 # slow, and only for --version

    try:
        return metadata.version("synkti")
    except metadata.PackageNotFoundError:
        return "(a checkout)"


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
    except ConfigurationError as error:
        return _report(BadConfiguration("; ".join(error.faults)), given)
    except SynktiError as error:
        return _report(Failed(str(error)), given)
    except Exception as error:
        converted = _from_aws(error)
        if converted is None:
            raise
        return _report(converted, given)
    return returned if isinstance(returned, int) else ExitCode.DONE


def _from_aws(error: Exception) -> CliError | None:
    """Convert an error of AWS's library; None for any other. A command that has not imported it raises none of its."""
    if "botocore.exceptions" not in sys.modules:
        return None
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 # imported already

    from cli.aws_errors import to_cli_error  # noqa: PLC0415 # imports botocore

    return to_cli_error(error) if isinstance(error, BotoCoreError | ClientError) else None


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

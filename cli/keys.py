"""`synkti keys`: the keys of clients, of a deployed cluster or in a file."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cli.adapters.key_documents import FileKeyDocuments, KeyDocuments, SecretKeyDocuments
from cli.core.key_edits import (
    DEFAULT_SCOPES,
    DROPPABLE,
    TABLE_HEADERS,
    EditRefused,
    KeyRequest,
    add_key,
    describe_key,
    find_key,
    parse_duration,
    revoke_key,
    rotate_key,
    table_row,
)
from cli.errors import BadUsage
from cli.fleet import open_fleet
from cli.options import Cluster, Json, Profile, Region
from cli.terminal import Terminal
from node_agent.contract.names import client_keys_secret_name
from node_agent.core.access.caller import KeyLimits, Scope
from node_agent.core.access.client_key import ID_BYTES, SECRET_BYTES, ClientKey, make_key, make_secret
from node_agent.core.access.key_document import MAX_LIMIT, KeyDocument, KeyEntry

_PEPPER_BYTES = 32

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The keys of clients: create, list, revoke, rotate."
)

File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="PATH",
        help="A file of keys, as SYNKTI_API_KEYS=file:PATH reads it, instead of a deployed cluster's.",
        show_default=False,
    ),
]
KeyArgument = Annotated[str, typer.Argument(metavar="NAME|ID", help="The key's name, or its id.")]


def _limit(what: str) -> typer.models.OptionInfo:
    return typer.Option(help=what, min=1, max=MAX_LIMIT, show_default=False)  # type: ignore[no-any-return]


def _duration(text: str | None) -> float | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise BadUsage(str(error)) from error


def open_documents(file: Path | None, cluster: str | None, region: str | None, profile: str | None) -> KeyDocuments:
    """Return the file, or the selected cluster's secret. Raises CliError, ConfigurationError, AWS's errors."""
    if file is not None:
        return FileKeyDocuments(file.absolute(), secrets.token_hex(_PEPPER_BYTES))
    fleet = open_fleet(cluster, region, profile)
    return SecretKeyDocuments(fleet.account.client("secretsmanager"), client_keys_secret_name(fleet.cluster))


def create_key(documents: KeyDocuments, request: KeyRequest) -> tuple[ClientKey, KeyEntry]:
    """Make a key from new random bytes, and store its hash. Raises BadUsage, CliError, AWS's errors."""
    key = make_key(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))

    def change(document: KeyDocument) -> tuple[KeyDocument, KeyEntry]:
        made = add_key(document, request, key, time.time())
        return made, made.keys[-1]

    return key, _edit(documents, change)


def _edit(documents: KeyDocuments, change: Callable[[KeyDocument], tuple[KeyDocument, KeyEntry]]) -> KeyEntry:
    try:
        return documents.edit(change)
    except EditRefused as error:
        raise BadUsage(str(error), error.advice) from error


def _print_new(terminal: Terminal, key: ClientKey, entry: KeyEntry) -> None:
    """Print a key, which is stored nowhere else."""
    terminal.document({**describe_key(entry, time.time()), "key": key.text.decode()})
    terminal.line(key.text.decode())
    scopes = ", ".join(scope.value for scope in Scope if scope in entry.scopes)
    terminal.status(f"{entry.name} ({entry.key_id}) may use: {scopes}; nodes accept it within 30 s")
    terminal.status("it is printed only now: store it where your application reads OPENAI_API_KEY")


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for lists and logs, such as the application's.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it may do; may be repeated. By default inference and fleet.", show_default=False),
    ] = None,
    requests_per_minute: Annotated[int | None, _limit("Requests that begin within a minute.")] = None,
    tokens_per_minute: Annotated[int | None, _limit("Tokens of prompts and answers within a minute.")] = None,
    streams: Annotated[int | None, _limit("Requests that are answered at once.")] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="After which it is refused, such as 30d or 12h.", show_default=False),
    ] = None,
    file: File = None,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Create a key, and print it: this once, since only a hash of it is stored.

    inference: all routes of OpenAI and Anthropic. fleet: the nodes and their addresses, which synkti_client and the
    gateway need. metrics: /metrics. admin: drains.

    \b
    Examples:
      synkti keys create chat
      synkti keys create chat --requests-per-minute 600 --streams 20 --expires 90d
      synkti keys create prometheus --scope metrics
      synkti keys create me --file ./keys.json
    """
    terminal = Terminal(as_json)
    lives_s = _duration(expires)
    request = KeyRequest(
        name,
        frozenset(scope or DEFAULT_SCOPES),
        KeyLimits(requests_per_minute, tokens_per_minute, streams),
        None if lives_s is None else time.time() + lives_s,
    )
    key, entry = create_key(open_documents(file, cluster, region, profile), request)
    _print_new(terminal, key, entry)


@app.command(name="list")
def list_keys(
    file: File = None,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """List the keys: names, ids, scopes, limits; never a secret. Keys that ended 30 days ago are not listed.

    \b
    Examples:
      synkti keys list
      synkti keys list --json | jq -r '.keys[] | select(.status == "expired") | .name'
    """
    terminal = Terminal(as_json)
    document, now = open_documents(file, cluster, region, profile).read(), time.time()
    terminal.document({"keys": [describe_key(entry, now) for entry in document.keys]})
    if document.keys:
        terminal.table(TABLE_HEADERS, [table_row(entry, now) for entry in document.keys], droppable=DROPPABLE)
    else:
        terminal.line("there are no keys")
        terminal.status("no client is accepted; synkti keys create NAME makes the first key")


@app.command()
def revoke(
    key: KeyArgument,
    file: File = None,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Revoke a key: within 30 seconds all nodes refuse it. A stream that it reads ends when its answer does.

    \b
    Examples:
      synkti keys revoke chat
      synkti keys revoke 4f1c09d2a7be
    """
    terminal = Terminal(as_json)
    entry = _edit(
        open_documents(file, cluster, region, profile), lambda all_keys: revoke_key(all_keys, key, time.time())
    )
    terminal.document(describe_key(entry, time.time()))
    terminal.line(f"{entry.name} ({entry.key_id}) is revoked")
    terminal.status("nodes refuse it within 30 s; a node that AWS does not answer, when it does again")


@app.command()
def rotate(
    key: KeyArgument,
    overlap: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the older secret is accepted, too; 0 for not at all.")
    ] = "24h",
    file: File = None,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Give a key a new secret, and print it. Name, id, scopes, limits and streams stay; both secrets work for a while.

    \b
    Examples:
      synkti keys rotate chat
      synkti keys rotate chat --overlap 1h
    """
    terminal = Terminal(as_json)
    overlap_s = 0.0 if overlap == "0" else _duration(overlap) or 0.0
    secret, made = secrets.token_bytes(SECRET_BYTES), list[ClientKey]()

    def change(document: KeyDocument) -> tuple[KeyDocument, KeyEntry]:
        now = time.time()
        made[:] = [make_secret(find_key(document, key, now).key_id, secret)]
        return rotate_key(document, key, made[0], now, overlap_s)

    entry = _edit(open_documents(file, cluster, region, profile), change)
    _print_new(terminal, made[0], entry)
    if entry.previous is not None:
        terminal.status(f"the older secret is accepted for {overlap}")

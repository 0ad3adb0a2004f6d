"""`synkti streams`: list the streams of a cluster, and those that a lost node has left."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from botocore.exceptions import ClientError

from cli.adapters.instances import Instances
from cli.adapters.stream_records import StreamRecords
from cli.aws_errors import error_code
from cli.core.streams import DROPPABLE, TABLE_HEADERS, Stream, row_style, streams_of, table_row
from cli.errors import NotFound
from cli.fleet import Fleet, open_fleet
from cli.options import Cluster, Json, Profile, Region
from cli.terminal import Terminal, human_age
from node_agent.contract.names import table_name
from node_agent.contract.table_schema import StreamStatus

_SHOWN_BY_DEFAULT = (StreamStatus.ORPHANED, StreamStatus.HANDED_OFF, StreamStatus.OPEN)


def streams(
    status: Annotated[
        list[StreamStatus] | None,
        typer.Option(help="Only streams of this status; may be repeated.", show_default=False),
    ] = None,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """List the streams that the cluster's table has: orphaned, handed off, open.

    Nodes write their open streams every 15 seconds, so shorter streams may never be listed, and events are as of the
    last write. A stream is orphaned when its node was lost; it is open again once its client came back to another node,
    for which it has five minutes.

    \b
    Examples:
      synkti streams
      synkti streams --status orphaned
      synkti streams --json | jq -r '.streams[] | select(.status == "orphaned") | .stream'
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    now = time.time()
    found = _read(fleet, tuple(status or _SHOWN_BY_DEFAULT), now)
    terminal.document(
        {
            "cluster": fleet.cluster,
            "region": fleet.account.region,
            "streams": [stream.document() for stream in found],
        }
    )
    counts = [
        f"{count} {each.value}" for each in StreamStatus if (count := sum(stream.status is each for stream in found))
    ]
    terminal.line(f"{fleet.cluster} in {fleet.account.region}: {', '.join(counts) or 'no streams are recorded'}")
    if found:
        rows = [table_row(stream, human_age(now - stream.since)) for stream in found]
        terminal.table(TABLE_HEADERS, rows, [row_style(stream) for stream in found], DROPPABLE)


def _read(fleet: Fleet, statuses: tuple[StreamStatus, ...], now: float) -> tuple[Stream, ...]:
    """Return the streams of these statuses. The others are read, too: a further record may replace an open one.

    Raises:
        NotFound: The table is missing, or of an older version.
        ClientError: AWS refuses for another reason.
    """
    records = StreamRecords(fleet.account.client("dynamodb"), table_name(fleet.cluster))
    nodes = Instances(fleet.account.client("ec2"), fleet.cluster).nodes()
    try:
        open_now = records.open_streams([node.instance_id for node in nodes])
        owned = [each for status in StreamStatus for each in records.owned(status)]
    except ClientError as error:
        if error_code(error) not in ("ResourceNotFoundException", "ValidationException"):
            raise
        message = f"the table {table_name(fleet.cluster)} has no index of streams"
        raise NotFound(message, "its stacks are older than this command: synkti bootstrap updates them") from error
    return streams_of(open_now, owned, statuses, now)

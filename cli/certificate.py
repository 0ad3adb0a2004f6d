"""`synkti certificate`: how many streams a live fleet has continued, and how many broke."""

from __future__ import annotations

from botocore.exceptions import ClientError

from cli.adapters.instances import Instances
from cli.adapters.records import Records
from cli.adapters.results import result_of
from cli.adapters.stream_records import StreamRecords
from cli.aws_errors import error_code
from cli.core.continuity import continuity_of, report_lines, unknown_lines, verdict
from cli.errors import Failed
from cli.fleet import Fleet, open_fleet
from cli.options import Cluster, Json, Profile, Region
from cli.terminal import Terminal
from cli.top import node_metrics
from node_agent.contract.names import table_name
from node_agent.contract.table_schema import StreamStatus


def certificate(cluster: Cluster = None, region: Region = None, profile: Profile = None, as_json: Json = False) -> None:
    """Show how the fleet kept its promise so far: streams continued, broken, and without a copy; and what is not known.

    The counts are those of the nodes that run now, since their agents' starts; streams of lost nodes are those of the
    table. make run and make chaos compare every answer with the uninterrupted one; this command cannot.

    \b
    Examples:
      synkti certificate
      synkti certificate --json | jq '{continued: .continued.total, broken: .broken.total}'
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    nodes = Instances(fleet.account.client("ec2"), fleet.cluster).nodes()
    with terminal.spinner("reading the nodes' metrics"):
        figures = node_metrics(fleet).read(nodes)
    table = table_name(fleet.cluster)
    orphaned = result_of(lambda: count_orphaned(fleet))
    running = {node.instance_id for node in nodes}
    records = Records(fleet.account.client("dynamodb"), table)
    ended = result_of(lambda: frozenset(each.instance_id for each in records.of_nodes().nodes) - running)
    found = continuity_of(nodes, figures, orphaned, ended)
    terminal.document(
        {
            "cluster": fleet.cluster,
            "region": fleet.account.region,
            **found.document(),
            "not_known": list(unknown_lines(found, orphaned, ended)),
        }
    )
    terminal.line(f"{fleet.cluster} in {fleet.account.region}: {verdict(found)}", "" if found.is_kept else "yellow")
    for what, text in report_lines(found):
        terminal.line(f"  {what:13} {text}")
    for line in unknown_lines(found, orphaned, ended):
        terminal.line(f"  {'not known':13} {line}")


def count_orphaned(fleet: Fleet) -> int:
    """Return how many streams of lost nodes no client has taken up. Raises Failed, AWS's errors."""
    table = table_name(fleet.cluster)
    try:
        return len(StreamRecords(fleet.account.client("dynamodb"), table).owned(StreamStatus.ORPHANED))
    except ClientError as error:
        if error_code(error) not in ("ResourceNotFoundException", "ValidationException"):
            raise
        raise Failed(f"the table {table} has no index of streams") from error

"""The names that the parts share: ports, resources, headers, stacks.

Resource names derive from the cluster's name alone, so that nothing has to be looked up or configured twice.
"""

from __future__ import annotations

import re

DEFAULT_CLUSTER = "synkti"

FRONT_DOOR_PORT = 8000
PEER_DOOR_PORT = 8001
ENGINE_PORT = 8002
ADMIN_PORT = 8003

EC2_EVENT_SOURCE = "aws.ec2"
AUTO_SCALING_EVENT_SOURCE = "aws.autoscaling"
NODE_EVENT_SOURCE = "synkti.node"
"""Of the events that nodes put themselves (contract/launch_breaker)."""

DRILL_EVENT_SOURCE = "synkti.drill"
"""Accepted by the deployed rules only where drills are on: anyone with events:PutEvents could start a drain."""

STREAM_HEADER = "x-synkti-stream"
ROUTE_HEADER = "x-synkti-route"
NODE_HEADER = "x-synkti-node"
"""The instance whose engine serves the request, as it was first routed."""

DURABILITY_HEADER = b"x-synkti-durability"
"""Chooses where a request's journal is kept: peer (copies at peers, the default) or none."""

NOT_DURABLE = "none"

SIGNS_HEADER = b"x-synkti-signs"
"""On a peer API's interim response: it sends signs of life on this request for as long as its engine works."""

SESSION_HEADER = b"x-synkti-session"
"""A client's own name for requests that belong together: they are routed to one node while it has room."""

EVENT_IDS_HEADER = "x-synkti-event-ids"
"""A client that can use the ids of events sends this with `true`: each event of its stream then has an `id:` line, and
an idle stream a comment a second. Other clients get neither, because some take every block for `data:`.
"""

_ORIGIN = re.compile(
    r"\*|[a-z][a-z0-9+.-]*://[A-Za-z0-9.-]+(:[0-9]{1,5})?|[a-z][a-z0-9+.-]*://\[[0-9a-f:]+\](:[0-9]{1,5})?"
)

_CLUSTER = re.compile(r"[a-z][a-z0-9-]{0,18}[a-z0-9]")


def is_cluster_name(name: str) -> bool:
    """Return whether it is 2-20 lower case letters, digits and hyphens: it has to fit in a bucket's name."""
    return _CLUSTER.fullmatch(name) is not None


def is_origin(text: str) -> bool:
    """Return whether it is a web page's origin as browsers write it, `https://chat.example.com`, or `*` for any."""
    return _ORIGIN.fullmatch(text) is not None


def table_name(cluster: str) -> str:
    """Return the name of the DynamoDB table, which has all records of the cluster (`contract/table_schema`)."""
    return f"{cluster}-records"


def models_bucket_name(cluster: str, account: str, region: str) -> str:
    """Return the models bucket's name. account: its 12 digits, since a bucket's name is unique in all of AWS."""
    return f"{cluster}-models-{account}-{region}"


def checkpoints_bucket_name(cluster: str, account: str, region: str) -> str:
    """Return the name of the bucket for journals, KV blocks and last logs; for `account` see `models_bucket_name`."""
    return f"{cluster}-checkpoints-{account}-{region}"


def cluster_key_secret_name(cluster: str) -> str:
    """Return the name in Secrets Manager of the key by which the nodes authenticate to each other."""
    return f"{cluster}/cluster-key"


def client_keys_secret_name(cluster: str) -> str:
    """Return the name in Secrets Manager of the document of clients' keys (`node_agent/core/access/key_document`)."""
    return f"{cluster}/client-keys"


def auto_scaling_group_name(cluster: str) -> str:
    """Return the name of the Auto Scaling group that launches the nodes; a cluster has one."""
    return f"{cluster}-fleet"


MIN_NODES_OUTPUT, MAX_NODES_OUTPUT, NODES_OUTPUT = "MinNodes", "MaxNodes", "Nodes"
"""The fleet stack's outputs of the group's size; the last one only where the fleet does not scale automatically."""

READY_HOOK = "ready"
"""The group's hook on a launch: an instance counts as in service when its node serves, and not before."""

LAUNCH_PROCESS = "Launch"
"""The process of the group that the breaker suspends (lambdas/core/launch_breaker) and `synkti resume` resumes."""

DRAINED_HOOK = "drained"
"""The group's hook on a termination: the instance stays until its node has drained, or the hook's time is up."""

METRICS_NAMESPACE = "Synkti"
METRICS_SERVICE = "synkti"
CLUSTER_DIMENSION = "cluster"
"""The dimension by which an alarm counts what happens in its own cluster only."""

IN_FLIGHT_METRIC = "InFlightRequests"
"""Requests under way at a node's engine, once a minute from each node; its average scales the fleet."""

CONTINUED_METRIC = "StreamsContinued"
BROKEN_METRIC = "StreamsBroken"
UNREPLICATED_METRIC = "EventsUnreplicated"
PAUSE_METRIC = "ContinuationPause"
"""Of the promise, from each node in the minutes in which they grew (core/node/promise_metrics)."""

CACHES_PREFIX = "bin/caches/"
"""In the models bucket: what engines have compiled, bin/caches/<instance type>-<digest>.tar (stacks/boot/caches.sh)."""

JOURNALS_PREFIX = "journals/"
"""In the checkpoints bucket: unfinished journals of nodes that ended, journals/<instance>/<incarnation>-<n>."""

KV_BLOCKS_PREFIX = "kv/"
"""In the same bucket: the KV blocks of streams that were handed off, kv/<fingerprint>/<stream>."""

END_OF_LIFE_PREFIX = "end-of-life/"
"""In the same bucket: the last log of each node, end-of-life/<instance>/<instant>.log."""


def metric_dimensions(cluster: str) -> dict[str, str]:
    """Return the dimensions of a metric of a whole cluster: Powertools' service, and the cluster."""
    return {"service": METRICS_SERVICE, CLUSTER_DIMENSION: cluster}


def node_log_group_name(cluster: str) -> str:
    """Return the log group in CloudWatch; it has one stream for each instance, under its id."""
    return f"/synkti/{cluster}/nodes"


def github_role_name(cluster: str) -> str:
    """Return the role that a repository's workflow deploys with."""
    return f"{cluster}-github-deployer"


def github_watcher_name(cluster: str) -> str:
    """Return the role with which a repository's workflow looks for a newer machine image."""
    return f"{cluster}-github-watcher"


def image_parameter_name(cluster: str) -> str:
    """Return the parameter in Systems Manager that holds the id of the fleet's machine image."""
    return f"/synkti/{cluster}/image-id"


def model_project_name(cluster: str) -> str:
    """Return the project in CodeBuild whose builds copy models from a hub into the models bucket."""
    return f"{cluster}-model"


def stack_name(cluster: str, part: str) -> str:
    """Return a stack's name. part: state, model, image, fleet, events or github."""
    return f"{cluster}-{part}"


def function_name(cluster: str, handler: str) -> str:
    """Return a function's name. handler: the module's name in lambdas/handlers, e.g. node_interrupted."""
    return f"{cluster}-{handler.replace('_', '-')}"


KV_HEADER = "x-synkti-kv-from"
"""The instance whose engine had the stream's context last, or IN_S3."""

IN_S3 = "s3"
KV_PREFIX = "/peer/v1/kv/"

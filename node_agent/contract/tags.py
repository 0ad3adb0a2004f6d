"""The EC2 tags of a node: how a new node finds the others.

Rules kept here: keys are few and values short (50 tags, 256 characters); load is never tagged; a tag that cannot be
parsed counts as absent, because a person may edit a tag by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.contract.addresses import node_address
from node_agent.contract.states import NodeState
from node_agent.contract.timestamps import format_instant, parse_instant

CLUSTER_TAG = "SynktiCluster"
ROLE_TAG = "SynktiRole"
STATE_TAG = "SynktiState"
ADDRESS_TAG = "SynktiAddress"
DEADLINE_TAG = "SynktiDeadline"
VERSION_TAG = "SynktiVersion"
"""What was deployed when the instance was launched: a digest of agent, engine, model and boot script. The Auto Scaling
group writes it at launch, it never changes, and the fleet stack's output FleetVersion has the newest."""

KEY_TAG = "SynktiKey"
"""A node's public key. Only the instance itself may write it: by this tag EC2 vouches for a node."""

SHUT_OUT_TAG = "SynktiShutOut"
"""On an instance that is excluded from the fleet, with any value. No node's role may write or remove it."""

CLUSTER_KEYS_TAG = "SynktiClusterKeys"
"""The ids of the cluster keys that a node accepts, the one first with which it signs, separated by blanks."""

EMULATED_END_TAG = "SynktiEmulatedEnd"
"""On the embedded AWS, which has no TerminateInstanceInAutoScalingGroup: `synkti drain` writes it, and the program that
emulates the group terminates the instance. Nothing reads it on AWS."""

EMULATED_REPLACE, EMULATED_SHRINK = "replace", "shrink"
"""Its values: whether the group launches another instance, or keeps one less."""

WORKER_ROLE = "worker"

STATE_TAGS = (ROLE_TAG, STATE_TAG, ADDRESS_TAG, DEADLINE_TAG)
"""The tags that the Lambdas may write, too."""

NODE_TAGS = (*STATE_TAGS, KEY_TAG, CLUSTER_KEYS_TAG)
"""The tags that a node removes from itself on a graceful end; the cluster's tag belongs to the Auto Scaling group."""

_PUBLIC_KEY = re.compile(r"[A-Za-z0-9_-]{44}")
"""A compressed P-256 point in URL-safe Base64 (`adapters/node_key`)."""

_KEY_IDS = re.compile(r"[0-9a-f]{8}( [0-9a-f]{8}){0,2}")


@dataclass(frozen=True)
class NodeTags:
    """A node's tags.

    address: host:port of its peer API, only where the private address is not enough; deadline: unix seconds;
    public_key: its own; cluster_keys: the ids of the cluster keys that it accepts;
    is_shut_out: whether it is excluded, which a node never writes.
    """

    cluster: str
    state: NodeState | None
    address: str | None = None
    deadline: float | None = None
    public_key: str | None = None
    cluster_keys: tuple[str, ...] = ()
    is_shut_out: bool = False

    def encode(self) -> dict[str, str]:
        """Encode the tags that have a value, for EC2; the deadline in RFC 3339."""
        tags = {CLUSTER_TAG: self.cluster, ROLE_TAG: WORKER_ROLE}
        if self.state is not None:
            tags[STATE_TAG] = self.state.value
        if self.address is not None:
            tags[ADDRESS_TAG] = self.address
        if self.deadline is not None:
            tags[DEADLINE_TAG] = format_instant(self.deadline)
        if self.public_key is not None:
            tags[KEY_TAG] = self.public_key
        if self.cluster_keys:
            tags[CLUSTER_KEYS_TAG] = " ".join(self.cluster_keys)
        return tags


def decode_tags(tags: Mapping[str, str]) -> NodeTags | None:
    """Return the tags of a node, decoded; None where they are not those of a worker of any cluster.

    Each of the other tags counts as absent where it cannot be parsed: also an address that is not IPv4:port.
    """
    cluster = tags.get(CLUSTER_TAG)
    if not cluster or tags.get(ROLE_TAG) != WORKER_ROLE:
        return None
    address = node_address(tags.get(ADDRESS_TAG))
    return NodeTags(
        cluster,
        _state(tags.get(STATE_TAG)),
        address,
        _deadline(tags.get(DEADLINE_TAG)),
        public_key_text(tags.get(KEY_TAG)),
        _key_ids(tags.get(CLUSTER_KEYS_TAG)),
        SHUT_OUT_TAG in tags,
    )


def public_key_text(text: str | None) -> str | None:
    """Return a text that has the form of a public key; None for any other."""
    return text if text is not None and _PUBLIC_KEY.fullmatch(text) else None


def _key_ids(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(" ")) if text is not None and _KEY_IDS.fullmatch(text) else ()


def tags_from_ec2(listed: object) -> dict[str, str]:
    """Turn EC2's list of {"Key", "Value"} into a mapping; entries of another form are skipped."""
    if not isinstance(listed, list):
        return {}
    pairs = ((tag.get("Key"), tag.get("Value")) for tag in listed if isinstance(tag, Mapping))
    return {key: value for key, value in pairs if isinstance(key, str) and isinstance(value, str)}


def _state(value: str | None) -> NodeState | None:
    try:
        return NodeState(value) if value is not None else None
    except ValueError:
        return None


def _deadline(value: str | None) -> float | None:
    try:
        return parse_instant(value) if value is not None else None
    except ValueError:
        return None

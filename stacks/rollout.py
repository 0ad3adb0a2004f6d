"""How a new version reaches the nodes of a fleet, and how long that may take. Standard library only.

The Auto Scaling group replaces its instances in batches. A batch ends when its nodes serve, or when they give up, so
that the time grows with the number of batches.
"""

from __future__ import annotations

import math

from stacks.settings import FleetSettings

DRAIN_S = 120
"""How long the group waits for a node that it terminates itself. On an interruption EC2 does not wait."""

WARMUP_S = 60
"""How long a new instance counts as warming up, after it is in service."""

SPARE_PERCENT = 10
"""How many instances more than desired an update may run, where all of the fleet is to serve throughout."""

_STACKS_MINUTES = 30
_IMAGE_BUILD_MINUTES = 120
"""The build's own timeout (constructs/image_build.py)."""

_MODEL_MINUTES = 60
"""How long CloudFormation waits for the copy of a model (constructs/model_request.py)."""

JOB_MINUTES = 360
"""How long GitHub lets a job run at most. Source: GitHub's "Usage limits" of Actions."""


def max_healthy_percent(settings: FleetSettings) -> int:
    """Return the size of the group during an update, in percent of the desired one."""
    return 100 + SPARE_PERCENT if settings.refresh_healthy_percent == 100 else 100


def batches(settings: FleetSettings) -> int:
    """Return the number of batches in which the group replaces all of its instances."""
    nodes = settings.max_nodes if settings.is_autoscaled else settings.nodes
    percent = max_healthy_percent(settings) - settings.refresh_healthy_percent
    return math.ceil(nodes / max(1, nodes * percent // 100))


def longest_minutes(settings: FleetSettings) -> int:
    """Return how long a deployment may take that replaces every node, where each node needs all of its time."""
    batch_s = settings.ready_within_s + WARMUP_S + DRAIN_S
    build = _IMAGE_BUILD_MINUTES if settings.bake_image else 0
    model = _MODEL_MINUTES if settings.model_source else 0
    return _STACKS_MINUTES + build + model + math.ceil(batches(settings) * batch_s / 60)

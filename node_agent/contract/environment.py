"""Environment variables that one part of the project sets and another one reads.

The stacks set them for the Lambdas, in a node's boot.env and for the build that fetches a model; the Lambdas, the model
download on a node, and that build read them.
"""

from __future__ import annotations

CLUSTER = "SYNKTI_CLUSTER"
TABLE = "SYNKTI_TABLE"
GROUP = "SYNKTI_GROUP"
ON_DEMAND_BASE = "SYNKTI_ON_DEMAND_BASE"
ON_DEMAND_LIMIT = "SYNKTI_ON_DEMAND_LIMIT"

MODELS_BUCKET = "SYNKTI_MODELS_BUCKET"
MODEL_NAME = "SYNKTI_MODEL_NAME"
MODEL_SHA256 = "SYNKTI_MODEL_SHA256"
MODEL_LOAD = "SYNKTI_MODEL_LOAD"
ENGINE_ARGS = "SYNKTI_ENGINE_ARGS"
INSTANCE_TYPES = "SYNKTI_INSTANCE_TYPES"

MODEL_SOURCE = "SYNKTI_MODEL_SOURCE"
"""A model on a hub (contract/hub); the variables below are of the build that copies it."""

HUB_TOKEN_SECRET = "SYNKTI_HUB_TOKEN_SECRET"  # noqa: S105 # a variable's name
HUB_REPLACE = "SYNKTI_HUB_REPLACE"
HUB_EVERYTHING = "SYNKTI_HUB_EVERYTHING"
HUB_UNCHECKED = "SYNKTI_HUB_UNCHECKED"
HUB_WITHIN_S = "SYNKTI_HUB_WITHIN_S"
HUB_PROJECT = "SYNKTI_HUB_PROJECT"
"""The build's project, for the Lambda that starts it."""

RESPONSE_URL = "SYNKTI_RESPONSE_URL"
RESPONSE_FAILED = "SYNKTI_RESPONSE_FAILED"
"""Where CloudFormation waits for the build: where to, and the response of a build that fails before it can say why."""

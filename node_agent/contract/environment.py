"""Environment variables that one part of the project sets and another one reads.

The stacks set them for the Lambdas and in a node's boot.env; the Lambdas, and the model download on a node, read them.
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

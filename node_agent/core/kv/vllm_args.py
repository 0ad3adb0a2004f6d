"""Build vLLM's arguments for storing and loading KV blocks.

The connector (`node_agent/kv`) is loaded from outside vLLM, by its module's name: the engine's Python path needs the
folder that holds `node_agent`.
"""

from __future__ import annotations

import json

MODULE = "node_agent.kv.connector"
CONNECTOR = "SynktiKvConnector"


def kv_arguments(folder: str, max_bytes: int, weights: str = "") -> tuple[str, ...]:
    """Return the arguments for `vllm serve`.

    A block that cannot be loaded is computed: vLLM would else fail its request.

    folder: of the blocks; max_bytes: the folder's bound; weights: the model's digest, "" to compute it at start.
    """
    extra: dict[str, str | int] = {"folder": folder, "max_bytes": max_bytes}
    if weights:
        extra["weights"] = weights
    config = {
        "kv_connector": CONNECTOR,
        "kv_connector_module_path": MODULE,
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": extra,
    }
    return ("--kv-transfer-config", json.dumps(config))

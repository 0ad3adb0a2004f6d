"""Compare the sizes of models with vLLM's own: lengths, KV heads, KV memory, the longest context, parameters.

vLLM runs in the engine's environment, on a CPU and without memory for weights; a CPU's attention has other blocks than
a GPU's, so blocks of 16 tokens are set. What vLLM measures at a start (activations, CUDA graphs) is not compared.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from local.engine_env import engine_environ, ensure_engine
from node_agent.core.sizing.kv_memory import plan_kv
from node_agent.core.sizing.model_shape import ModelShape, read_shape
from tests.unit.core.sizing.models import PUBLIC_MODELS

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1_800)]

PROGRAM = Path(__file__).parent / "vllm_kv_plan.py"
GIB = 1024**3
LENGTHS = (1, 16, 17, 1_000, 4_096, 5_000, 8_192, 20_000, 131_072)
GPUS = (1, 2, 4, 8)
MEMORY = (GIB // 4, 3 * GIB + 1, 40 * GIB)


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What vLLM plans for every public model; one process, since importing vLLM takes most of the time."""
    jobs = tmp_path_factory.mktemp("plans") / "jobs.json"
    jobs.write_text(
        json.dumps(
            {
                # Quantization changes no KV, and a CPU cannot build such layers.
                name: {
                    "config": {key: value for key, value in config.items() if key != "quantization_config"},
                    "lengths": LENGTHS,
                    "memory": MEMORY,
                }
                for name, config in PUBLIC_MODELS.items()
            }
        )
    )
    python = ensure_engine(print) / "bin" / "python"
    environ = {**engine_environ(), "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run([python, PROGRAM, jobs], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4_000:]
    return json.loads(done.stdout.splitlines()[-1])


def shape_of(name: str) -> ModelShape:
    shape = read_shape(PUBLIC_MODELS[name])
    assert isinstance(shape, ModelShape)
    return shape


@pytest.mark.parametrize("name", PUBLIC_MODELS)
def test_sizes_are_those_that_vllm_plans(name: str, plans: Any) -> None:
    planned, shape = plans[name], shape_of(name)
    assert "error" not in planned, planned["error"]
    kv = plan_kv(shape.kv, 1, 2, 2_048)
    assert [kind.values(gpus) // kind.head_values for kind in shape.kv[:1] for gpus in GPUS] == planned["kv_heads"]
    assert shape.max_length == planned["max_length"]
    assert {length: kv.request_bytes(length) for length in LENGTHS} == as_numbers(planned["needed"])
    assert {size: kv.max_tokens(size, shape.max_length) for size in MEMORY} == as_numbers(planned["longest"])
    # Without biases and norms, which are a thousandth.
    assert abs(shape.parameters / planned["parameters"] - 1) < 0.005


def as_numbers(document: dict[str, int]) -> dict[int, int]:
    """JSON's keys are texts."""
    return {int(key): value for key, value in document.items()}

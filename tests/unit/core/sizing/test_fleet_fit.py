"""Test a fleet of several types: one context length, one dtype, and the engine's arguments that follow."""

from __future__ import annotations

import pytest

from node_agent.core.sizing.facts import ModelFacts, ModelFiles, parse_facts
from node_agent.core.sizing.fleet_fit import FleetFit, engine_arguments, fit_fleet
from node_agent.core.sizing.weights import WeightSizes
from tests.unit.core.sizing import models

LLAMA = ModelFacts(models.LLAMA_3_1_8B, WeightSizes({"model.safetensors": models.WEIGHTS["llama"]}))
QWEN_AWQ = ModelFacts(models.QWEN_2_5_7B_AWQ, WeightSizes({"model.safetensors": models.WEIGHTS["qwen2-awq"]}))
PHI = ModelFacts(models.PHI_3_MINI_4K, WeightSizes({}))


def fleet(facts: ModelFacts, *types: str, arguments: tuple[str, ...] = ()) -> FleetFit:
    return fit_fleet(facts, types, {}, arguments)


def test_the_smallest_type_sets_the_context_of_all() -> None:
    found = fleet(LLAMA, "g6e.xlarge", "g6.xlarge", "g5.12xlarge")
    assert (found.context, found.dtype, found.reason) == (24_576, None, "")
    assert {fit.context for fit in found.fits} == {24_576}
    assert found.smallest is not None
    assert found.smallest.instance_type == "g6.xlarge"
    large = fleet(LLAMA, "g6e.xlarge")
    assert large.context == 131_072
    assert found.fits[0].streams > large.fits[0].streams >= 1


def test_a_type_that_does_not_fit_is_refused_and_sets_nothing() -> None:
    found = fleet(LLAMA, "g6.xlarge", "g4dn.xlarge")
    assert [fit.instance_type for fit in found.refused] == ["g4dn.xlarge"]
    assert found.usable_types == ("g6.xlarge",)
    assert found.context == 24_576


def test_a_t4_in_the_fleet_makes_all_compute_in_float16() -> None:
    found = fleet(PHI, "g6.xlarge", "g4dn.xlarge")
    assert found.dtype == "float16"
    assert engine_arguments(found, 1, ()) == ("--max-model-len", "4096", "--dtype", "float16")
    assert fleet(PHI, "g6.xlarge").dtype is None
    assert fleet(QWEN_AWQ, "g4dn.xlarge", "g6.xlarge").dtype is None, "the model is in float16"


@pytest.mark.parametrize(
    ("arguments", "gpus", "added"),
    [
        ((), 1, ("--max-model-len", "24576")),
        ((), 4, ("--max-model-len", "24576", "--tensor-parallel-size", "4")),
        (("--max-model-len", "8192"), 1, ()),
        (("--max-model-len", "auto"), 1, ()),
        (("-tp", "2"), 4, ("--max-model-len", "24576")),
    ],
)
def test_what_an_operator_sets_is_left_alone(arguments: tuple[str, ...], gpus: int, added: tuple[str, ...]) -> None:
    found = fleet(LLAMA, "g5.xlarge", "g5.12xlarge")
    assert engine_arguments(found, gpus, arguments) == added


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (fleet(LLAMA, "g6.xlarge", "g99.xlarge"), "the GPUs of g99.xlarge are not known here"),
        (fleet(ModelFacts(None, WeightSizes({})), "g6.xlarge"), "the model has no config.json"),
        (fleet(ModelFacts({"model_type": "mamba2"}, WeightSizes({})), "g6.xlarge"), "memory of mamba2 is not known"),
        (fleet(LLAMA, "g6.xlarge", arguments=("--enable-lora",)), "engine_args has --enable-lora, whose memory"),
        (fleet(LLAMA, "g4dn.xlarge"), "no type can run the model"),
    ],
)  # fmt: skip
def test_where_something_is_unknown_the_engine_finds_the_length(found: FleetFit, reason: str) -> None:
    assert found.context is None
    assert reason in found.reason
    assert engine_arguments(found, 1, ()) == ("--max-model-len", "auto")


def test_weights_that_exceed_a_type_are_refused_though_the_model_is_not_known() -> None:
    facts = ModelFacts({"model_type": "qwen3_next"}, WeightSizes({"model.safetensors": 160 * 2**30}))
    found = fleet(facts, "g6.xlarge", "g6e.12xlarge", "p5.48xlarge")
    assert [fit.instance_type for fit in found.refused] == ["g6.xlarge"]
    assert found.refused[0].words == "the weights have 160.0 GiB, and its GPUs 1 x 22.0 GiB"


def test_a_models_own_code_is_refused_unless_it_is_trusted() -> None:
    facts = ModelFacts({"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}}, WeightSizes({}))
    with pytest.raises(
        ValueError, match=r"Python code of the model's own .* unless engine_args has --trust-remote-code"
    ):
        fleet(facts, "g6.xlarge")
    assert fleet(facts, "g6.xlarge", arguments=("--trust-remote-code",)).context is None
    assert fleet(PHI, "g6.xlarge").context == 4_096, "vLLM has this family itself, and needs no code of the model"


def test_documents_are_parsed_or_named() -> None:
    facts = parse_facts(
        ModelFiles({"config.json": b'{"a": 1}', "model.safetensors.index.json": b"[]"}, {"w.safetensors": 5})
    )
    assert (facts.config, facts.sizes.total()) == ({"a": 1}, 5)
    assert parse_facts(ModelFiles({}, {})).config is None
    for body, why in ((b"{", "is no JSON"), (b"\xff", "is no JSON"), (b"[" * 100_000, "is no JSON"), (b"null", "null")):
        with pytest.raises(ValueError, match=r"config\.json") as raised:
            parse_facts(ModelFiles({"config.json": body}, {}))
        assert why in str(raised.value)

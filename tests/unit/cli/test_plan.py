"""`synkti plan`: with EC2 in memory, and without any AWS."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cli import plan as command
from cli.core.plan import candidate_types
from node_agent.core.sizing.gpus import KNOWN_TYPES
from tests.unit.cli import weights
from tests.unit.cli.conftest import Run
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation
from tests.unit.cli.stand_in_hub import stand_in_hub
from tests.unit.core.sizing.models import LLAMA_3_1_8B, QWEN_2_5_7B_AWQ, WEIGHTS

INDEX = "model.safetensors.index.json"


def folder_of(folder: Path, config: Any, size: int) -> Path:
    """A model without its weights: config.json and the index."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    index = {"metadata": {"total_size": size}, "weight_map": {"a": "model-00001-of-00004.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "llama", LLAMA_3_1_8B, WEIGHTS["llama"])


def rows(document: Any) -> dict[str, Any]:
    return {row["instance_type"]: row for row in document["types"]}


def test_the_types_of_a_region_have_fit_context_and_price(
    aws: MemoryCloudFormation, llama: Path, nowhere: Path, run: Run
) -> None:
    (nowhere / "synkti.toml").write_text('instance_types = ["g6.xlarge", "g4dn.xlarge"]\n')
    document = run("plan", llama, "--json").document
    found = rows(document)
    assert (found["g6.xlarge"]["fits"], found["g6.xlarge"]["context"]) == ("fits", 24_576)
    assert found["g6.xlarge"]["spot_dollars_per_hour"] == 0.00001, "moto's price"
    assert (found["g4dn.xlarge"]["fits"], found["g4dn.xlarge"]["context"]) == ("no", None)
    assert (found["g5.12xlarge"]["tensor_parallel"], found["g5.12xlarge"]["context"]) == (4, 131_072)
    assert found["g6e.xlarge"]["in_fleet"] is False
    assert document["fleet"] == {"context": 24_576, "usable": ["g6.xlarge"], "not_offered": []}
    assert document["without_aws"] is None


def test_the_table_and_the_sum_in_text(aws: MemoryCloudFormation, llama: Path, nowhere: Path, run: Run) -> None:
    (nowhere / "synkti.toml").write_text('instance_types = ["g6.xlarge", "g4dn.xlarge"]\n')
    done = run("plan", llama)
    assert done.code == 0
    assert done.table[0] == [
        "TYPE",
        "GPUS",
        "FITS",
        "SPLIT",
        "DTYPE",
        "CONTEXT",
        "STREAMS",
        "SPOT/H",
        "ON DEMAND/H",
        "FLEET",
    ]
    assert ["g6.xlarge", "1 x L4", "fits", "1", "bfloat16", "24,576", "1.0", "$0.000", "$0.805", "yes"] in done.table
    assert "g4dn.xlarge cannot run it: 14.5 GiB of a T4 x 0.92 - 15.0 weights" in done.out
    assert 'set instance_types = ["g6.xlarge"]' in done.out
    assert "a fleet of g6.xlarge has a context of 24,576 tokens: g6.xlarge sets it" in done.out


def test_types_that_a_region_does_not_offer_are_reported(aws: MemoryCloudFormation, llama: Path, run: Run) -> None:
    settings = ("-c", "instance_types=g5.xlarge,g6.xlarge")
    document = run("plan", llama, "--region", "eu-west-1", "--json", *settings).document
    assert document["fleet"]["not_offered"] == ["g6.xlarge"]
    assert "g6.12xlarge" not in rows(document)
    assert "eu-west-1 does not offer g6.xlarge" in run("plan", llama, "--region", "eu-west-1", *settings).out


def test_on_demand_prices_are_those_of_the_price_file_in_its_region_only(
    aws: MemoryCloudFormation, llama: Path, run: Run
) -> None:
    g5 = ("-c", "instance_types=g5.xlarge", "--json")
    assert rows(run("plan", llama, *g5).document)["g5.xlarge"]["on_demand_dollars_per_hour"] == 1.006
    elsewhere = run("plan", llama, "--region", "eu-west-1", *g5).document
    assert rows(elsewhere)["g5.xlarge"]["on_demand_dollars_per_hour"] is None


def test_prices_are_requested_for_the_types_of_the_region_only(
    aws: MemoryCloudFormation, llama: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[list[str]] = []

    def prices(ec2: Any, types: list[str], now: datetime) -> dict[str, float]:
        requested.append(types)
        return {}

    monkeypatch.setattr(command, "spot_prices", prices)
    document = run("plan", llama, "-c", "instance_types=g6.xlarge,g99.xlarge", "--json").document
    assert "g6.xlarge" in requested[0]
    assert "g99.xlarge" not in requested[0]
    assert rows(document)["g99.xlarge"]["fits"] == "unknown"
    assert document["fleet"]["not_offered"] == ["g99.xlarge"]


def test_without_credentials_the_table_of_gpus_is_used(llama: Path, run: Run) -> None:
    done = run("plan", llama)
    assert (done.code, "without spot prices: no AWS region is set" in done.err) == (0, True)
    fitting = [row for row in done.table if "fits" in row]
    assert fitting[0][0] == "g6.xlarge", "the cheapest on demand comes first"
    assert fitting[0][-3:] == ["-", "$0.805", "yes"]
    document = run("plan", llama, "--region", "us-east-1", "--json").document
    assert "no AWS credentials" in document["without_aws"]
    assert rows(document)["g6.xlarge"]["context"] == 24_576


def test_the_documented_smallest_fleet(tmp_path: Path, run: Run) -> None:
    qwen = folder_of(tmp_path / "qwen", QWEN_2_5_7B_AWQ, WEIGHTS["qwen2-awq"])
    document = run("plan", qwen, "-c", "instance_types=g4dn.xlarge", "--json").document
    smallest = rows(document)["g4dn.xlarge"]
    assert (smallest["fits"], smallest["dtype"], smallest["context"]) == ("fits", "float16", 32_768)
    assert document["fleet"]["context"] == 32_768


@pytest.mark.parametrize(
    ("config", "settings", "code", "message"),
    [
        ({}, (), 1, "config.json lacks model_type"),
        ({"model_type": "mine", "auto_map": {"a": "b"}}, (), 1, "set engine_args = "),
        (LLAMA_3_1_8B, ("-c", "engine_args=--max-model-len x"), 1, "correct engine_args in synkti.toml"),
        (LLAMA_3_1_8B, ("-c", "nodes=0"), 78, "nodes='0'"),
        (LLAMA_3_1_8B, ("-c", "nods=1"), 2, "is 'nodes' meant?"),
        ({"model_type": "mamba2"}, (), 0, ""),
    ],
)
def test_bad_input_is_an_error_with_an_advice(
    config: Any, settings: tuple[str, ...], code: int, message: str, tmp_path: Path, run: Run
) -> None:
    done = run("plan", folder_of(tmp_path / "m", config, WEIGHTS["llama"]), *settings)
    assert (done.code, message in done.err) == (code, True), done.err


def test_a_model_on_the_hub_and_one_that_is_nowhere(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("plan", tmp_path / "nothing").code == 4
    with stand_in_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        hub.add("acme/llama", {**weights.model(), "config.json": json.dumps(LLAMA_3_1_8B).encode()})
        hub.claimed = {"model.safetensors": WEIGHTS["llama"]}
        document = run("plan", "acme/llama@main", "-c", "instance_types=g6.xlarge", "--json").document
        assert document["fleet"]["context"] == 24_576
        assert not [path for where, path, _ in hub.requests if path.endswith("model.safetensors")], "no weights"
        assert "has no absent/nothing" in run("plan", "absent/nothing").err


def test_every_known_type_is_shown_on_request() -> None:
    few = candidate_types(("g6.2xlarge",), every=False)
    assert few[0] == "g6.2xlarge"
    assert {"g4dn.xlarge", "g4dn.12xlarge", "p5.48xlarge"} < set(few)
    assert "g5.2xlarge" not in few
    assert set(candidate_types((), every=True)) == set(KNOWN_TYPES)

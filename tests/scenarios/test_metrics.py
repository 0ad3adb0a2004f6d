"""What happens to streams moves the metrics that operators watch, on real agents."""

from __future__ import annotations

from pathlib import Path

from tests.scenarios.local_fleet import LocalFleet, LocalNode, eventually
from tests.scenarios.streams import CHAT, find_engine, open_stream, read_until, run_scenario
from tests.scenarios.test_resume import Reader

AT_THE_ENTRY = {
    "synkti_requests_total",
    "synkti_routes_total",
    "synkti_tokens_delivered_total",
    "synkti_engine_losses_total",
    "synkti_continuations_total",
    "synkti_continuation_methods_total",
    "synkti_continuation_pause_seconds_count",
    "synkti_hop_failures_total",
    "synkti_loop_lag_seconds_count",
    "synkti_client_keys_off",
    "gen_ai_server_request_duration_seconds_count",
    "gen_ai_server_time_to_first_token_seconds_count",
    "gen_ai_server_time_per_output_token_seconds_count",
}


async def moved(fleet: LocalFleet, node: LocalNode) -> dict[str, float]:
    """The series of a node that are above zero, summed by name."""
    text = (await fleet.http.get(f"{node.admin_url}/metrics")).text
    found: dict[str, float] = {}
    for line in (line for line in text.splitlines() if not line.startswith("#")):
        name, value = line.partition("{")[0].partition(" ")[0], float(line.rsplit(" ", 1)[1])
        if value > 0:
            found[name] = found.get(name, 0.0) + value
    return found


def test_a_lost_engine_moves_the_metrics_of_its_streams_entry(tmp_path: Path) -> None:
    body = {**CHAT, "return_token_ids": True}

    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", body)
        entry = fleet.others(engine)[0]
        before = await moved(fleet, entry)
        async with open_stream(fleet, entry, "chat", body) as reader:
            await read_until(reader, 40, engine.kill_engine)
        found = await moved(fleet, entry)
        assert set(found) >= AT_THE_ENTRY
        for counter in ("synkti_tokens_delivered_total", "synkti_requests_total", "synkti_loop_lag_seconds_count"):
            assert found[counter] > before.get(counter, 0.0)

        async def started_again() -> bool:
            return (await moved(fleet, engine))["synkti_engine_starts_total"] == 2

        await eventually("the engine was started again", started_again)
        assert any(name.startswith("vllm:") for name in found), "the engine's own are passed on"

    run_scenario(tmp_path, scenario)


def test_a_client_that_comes_back_to_another_node_moves_its_metric(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        entry, other, _ = fleet.nodes
        reader = Reader(fleet)
        await reader.request(entry, "chat", until=10)
        assert await reader.resume(other) == 200
        reader.check_whole("chat")
        text = (await fleet.http.get(f"{other.admin_url}/metrics")).text
        assert 'synkti_resumes_total{outcome="taken"} 1.0' in text
        assert await Reader(fleet, "f" * 24, "").resume(other) == 404
        text = (await fleet.http.get(f"{other.admin_url}/metrics")).text
        assert 'synkti_resumes_total{outcome="stream_not_found"} 1.0' in text

    run_scenario(tmp_path, scenario)

"""The simulator: the same seed gives the same figures; network, engines and streams behave as specified."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from statistics import fmean

import pytest

from node_agent.core.membership import MemberChanged
from node_agent.core.node.status import Load
from sim import __main__ as command
from sim import plots
from sim.cost import cost, keep_loads_changing
from sim.drains import mass_interruption
from sim.engine import CACHE_TOKENS, TIME_PER_TOKEN_S, Engine, Work
from sim.entry import Policy
from sim.figures import spread
from sim.fleet import Fleet
from sim.host import _SOCKET_BUFFER_BYTES
from sim.network import ConnectResult, NetworkConditions
from sim.policies import Bench
from sim.report import lines, to_json, without_cpu
from sim.runner import measured
from sim.scenarios import deaths
from sim.scheduler import Scheduler
from sim.suites import plan_for, quick_plan, steps
from sim.svg import bars, ticks


def found(nodes: int, seed: int) -> dict[str, object]:
    return {name: without_cpu(to_json(measure())) for name, measure in steps(quick_plan(nodes), seed)}


def test_the_same_seed_gives_the_same_figures_and_another_one_others() -> None:
    first, again, other = found(8, 1), found(8, 1), found(8, 2)
    assert first == again
    assert first != other


def test_a_short_simulation_finds_the_figures_that_the_goals_require(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["quick", "--nodes", "30", "--jobs", "1", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "simulation-quick-30-1.json").read_text())["found"]
    assert results["deaths"]["suspected_s"]["n"] == 29
    assert results["deaths"]["dead_s"]["max"] < 8.0
    assert results["deaths"]["falsely_dead"] == 0
    assert results["cost"]["quiet"]["messages_s"] < 6
    assert 0 < results["cost"]["busy"]["bytes_s"] < 4_000
    assert results["deaths"]["routes"] > 1_000
    assert "suspected s" in capsys.readouterr().out
    for bad in (["--nodes", "2"], ["--jobs", "0"]):
        with pytest.raises(SystemExit):
            command.main(bad)


def test_figures_do_not_depend_on_the_number_of_jobs(tmp_path: Path) -> None:
    """The command as make calls it, two measures at a time, against one after another here."""
    results = subprocess.run(
        [sys.executable, "-m", "sim", "mass", "--nodes", "3", "--jobs", "2", "--out", str(tmp_path)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "half goes, too busy" in results.stdout
    here = dict(measured("mass", 3, 1, jobs=1))
    assert json.loads((tmp_path / "simulation-mass-3-1.json").read_text())["found"] == to_json(here)


def test_every_size_has_a_plan() -> None:
    assert [plan_for(nodes).fleets * plan_for(nodes).deaths for nodes in (10, 100, 1_000, 10_000)] == [100, 80, 30, 10]
    names = [name for name, _ in steps(plan_for(100), 1)]
    assert "half the fleet goes" in names
    assert "half the fleet goes" not in [name for name, _ in steps(plan_for(10_000), 1)]


def test_tables_that_begin_synced_equal_tables_that_synced_by_messages() -> None:
    def play(*, share: bool) -> tuple[list[tuple[float, str, MemberChanged]], int, int]:
        fleet = Fleet(3, NetworkConditions(loss=0.05))
        hosts = fleet.gather(20, share=share)
        keep_loads_changing(fleet, 1)
        fleet.pass_time(5)
        hosts[3].terminate()
        hosts[4].freeze()
        fleet.pass_time(12)
        hosts[4].resume()
        hosts[7].leave()
        fleet.split(hosts[:10], hosts[10:])
        fleet.pass_time(12)
        fleet.split()
        fleet.boot(2)
        fleet.restart(hosts[8])
        fleet.pass_time(12)
        return fleet.changes, fleet.network.messages, fleet.network.octets

    assert play(share=True) == play(share=False)


def test_replayed_events_of_a_host_cost_a_few_hundred_microseconds_a_second() -> None:
    results = cost(20, 1, 3.0)
    assert list(cost(5, 1, 1.0, loads=False)) == ["quiet"]
    assert 10 < results["quiet"]["cpu_us_s"] < results["busy"]["cpu_us_s"] < 20_000


def test_every_survivor_detects_deaths_and_routes_are_stale_only_until_then() -> None:
    results = deaths(10, 5, fleets=4, count=1, every_s=1.0, loss=0.0)
    assert results["suspected_s"].count == results["dead_s"].count == 4 * 9
    assert 0 < results["stale_share"] < 0.05


# time and network


def test_events_run_in_order_of_time_and_then_of_scheduling() -> None:
    scheduler = Scheduler()
    done: list[str] = []
    scheduler.at(2.0, done.append, "late")
    scheduler.at(1.0, done.append, "first")
    scheduler.at(1.0, done.append, "second")
    scheduler.every(0.9, done.append, "again")
    scheduler.run_until(1.0)
    assert done == ["again", "first", "second"]
    assert scheduler.now == 1.0
    scheduler.run_until(2.0)
    assert done[3:] == ["again", "late"]


def arrivals(conditions: NetworkConditions, count: int = 4_000) -> list[tuple[int, float]]:
    """(which, when after it was sent) of so many datagrams sent a second apart."""
    fleet = Fleet(1, conditions)
    source, target = fleet.make(), fleet.make()
    fleet.network.plug_in(target)
    received: list[tuple[int, float]] = []
    target.on_datagram = lambda data: received.append((int(data), fleet.scheduler.now - int(data)))  # type: ignore[method-assign]
    for number in range(count):
        fleet.scheduler.at(float(number), fleet.network.send, source, target.address, b"%d" % number)
    fleet.scheduler.run_until(count + 10.0)
    return received


def test_the_network_loses_repeats_and_delays_at_the_configured_rates() -> None:
    calm = arrivals(NetworkConditions(delay_s=0.001))
    assert len(calm) == 4_000
    assert 0.0005 < fmean(delay for _, delay in calm) < 0.002
    rough = arrivals(NetworkConditions(loss=0.1, repeated=0.2, late=0.05, late_s=0.5))
    assert len({number for number, _ in rough}) == pytest.approx(3_600, rel=0.05)
    assert len(rough) == pytest.approx(3_600 * 1.2, rel=0.05)
    assert 0.3 < max(delay for _, delay in rough) < 2.0


def test_a_connection_finds_the_state_of_its_peer_and_waits_for_lost_packets() -> None:
    fleet = Fleet(1, NetworkConditions(loss=0.2))
    a, b = fleet.make(), fleet.make()
    reach = fleet.network.reach
    assert reach(a, b.address) == (ConnectResult.OPEN, b)
    b.crash()
    assert reach(a, b.address) == (ConnectResult.REFUSED, None)
    b.terminate()
    assert reach(a, b.address) == (ConnectResult.SILENT, None)
    assert reach(a, "10.9.9.9:1")[0] is ConnectResult.SILENT
    b.is_up = b.listens = True
    fleet.network.cut_links.add((b.address, a.address))
    assert reach(a, b.address)[0] is ConnectResult.SILENT  # an answer has to come back, too
    fleet.network.cut_links.clear()
    fleet.split([a], [b])
    assert reach(a, b.address)[0] is ConnectResult.SILENT
    delays = [fleet.network.stream_delay_s(opens=True) for _ in range(2_000)]
    assert sum(delay > 1.0 for delay in delays) / 2_000 == pytest.approx(0.36, abs=0.05)


def test_the_socket_of_a_stopped_process_keeps_a_full_buffer() -> None:
    fleet = Fleet(1)
    host = fleet.make()
    host.freeze()
    for _ in range(300):
        host.on_datagram(bytes(1_000))
    host.resume()
    assert host.membership.rejected["mac"] == _SOCKET_BUFFER_BYTES // 1_000


# engines


def work(context: int = 1_000, remaining: int = 100, prefix: int = 1, **more: int) -> Work:
    return Work(prefix, context, remaining, lambda _: None, lambda _: None, **more)


def test_an_engine_prefills_one_by_one_and_generates_concurrently() -> None:
    scheduler = Scheduler()
    engine = Engine(scheduler, slots=2, prefill_tokens_s=1_000.0)
    works = [work(prefix=number) for number in range(3)]
    for one in works:
        engine.submit(one)
    assert (len(engine.running), len(engine.waiting)) == (2, 1)
    assert engine.load == Load(2, 1, 2_000 / CACHE_TOKENS, TIME_PER_TOKEN_S, 1_000.0)
    scheduler.run_until(1.0)
    assert works[0].began_at == pytest.approx(1.0)
    assert works[1].began_at is None
    scheduler.run_until(1.0 + 100 * TIME_PER_TOKEN_S + 0.01)
    assert works[1].began_at == pytest.approx(2.0)
    assert list(engine.running.values()) == works[1:]
    scheduler.run_until(60.0)
    assert engine.running == {}


def test_an_engine_does_not_prefill_a_cached_prefix_again() -> None:
    scheduler = Scheduler()
    engine = Engine(scheduler)
    engine.submit(work(context=1_000, prefix=1))
    scheduler.run_until(10.0)
    again = work(context=1_500, prefix=1)
    engine.submit(again)
    assert again.cached == 1_100  # with the answer of before
    sibling = work(context=900, prefix=2, shared=9, shared_tokens=400)
    engine.submit(sibling)
    cousin = work(context=900, prefix=3, shared=9, shared_tokens=400)
    engine.submit(cousin)
    assert (sibling.cached, cousin.cached) == (0, 400)
    for number in range(100, 300):
        engine.submit(work(context=2_000, prefix=number))
        scheduler.run_until(scheduler.now + 10.0)
    forgotten = work(context=1_500, prefix=1)
    engine.submit(forgotten)
    assert forgotten.cached == 0


def test_a_stream_that_is_handed_off_keeps_its_context() -> None:
    scheduler = Scheduler()
    engine = Engine(scheduler, slots=1)
    one, next_one = work(remaining=1_000), work(prefix=2)
    engine.submit(one)
    engine.submit(next_one)
    scheduler.run_until(0.25 + 10 * TIME_PER_TOKEN_S + 0.001)
    engine.hand_off(one)
    assert (one.context, one.remaining, one.began_at) == (1_010, 990, None)
    assert list(engine.running.values()) == [next_one]
    engine.remove(one)  # not there any more


# the larger stories, short


def test_no_stream_is_lost_when_half_a_fleet_leaves_and_each_is_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.drains.WARM_UP_S", 120.0)
    results = mass_interruption(8, 1, rate=0.25)
    assert results["went"] == 4
    assert results["lost"] == results["unaccounted"] == 0
    assert results["handed_off"] > 5
    assert results["refused_429"] > 0
    assert results["retry_after_s"].most <= 60.0


def test_conversations_return_to_their_prefix_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.policies.WARM_UP_S", 40.0)
    monkeypatch.setattr("sim.policies.MEASURED_S", 60.0)
    rates = {policy: Bench(policy, True, 1, 1.0).run()["hit_rate"] for policy in Policy}
    assert rates[Policy.PREFIX] > 0.8
    assert all(rates[Policy.PREFIX] > 1.3 * rate for policy, rate in rates.items() if policy is not Policy.PREFIX)
    unrelated = Bench(Policy.PREFIX, False, 1, 5.0).run()
    assert unrelated["hit_rate"] < 0.01


# reports


def test_spreads_and_tables_have_the_measured_values() -> None:
    results = spread(range(101))
    assert (results.p50, results.p99, results.most, results.count) == (50, 99, 100, 101)
    assert to_json(spread([])) == {"p50": None, "p99": None, "max": None, "n": 0}
    table = lines("a measure", {"some_s": results, "of": {"it": 1.5, "cpu_us": 9.0}})
    assert table[0] == "a measure"
    assert any("some s" in line and "50.00 / 99.00 / 100.00" in line for line in table)
    assert any(line.strip().endswith("1.5") for line in table)
    assert without_cpu({"of": {"it": 1.5, "cpu_us": 9.0}}) == {"of": {"it": 1.5}}


@pytest.mark.parametrize("most", [0.0, 0.003, 0.9, 1.0, 7.3, 99.0, 4_321.0])
def test_axes_have_round_marks_up_to_the_most(most: float) -> None:
    marks = ticks(most)
    assert marks[0] == 0.0
    assert marks[-1] >= most * 0.999
    assert 2 <= len(marks) <= 7


def test_pictures_are_well_formed_and_hold_every_value() -> None:
    picture = bars("a < b", "s", ["x", "y"], {"one": [1.0, None], "two": [2.5, 0.0]})
    root = ET.fromstring(picture)
    texts = [element.text for element in root.iter() if element.text]
    assert {"a < b", "one", "two", "x", "y", "2.5"} <= set(texts)
    assert sum(element.tag.endswith("rect") for element in root.iter()) == 2 + 3


def test_pictures_are_made_from_the_files_of_simulations(tmp_path: Path) -> None:
    for nodes in (5, 15):
        command.main(["quick", "--nodes", str(nodes), "--jobs", "1", "--out", str(tmp_path)])
    policies = {name.value: {"hit_rate": 0.5, "first_token_s": {"p50": 0.1, "p99": 0.2}} for name in Policy}
    results = {"nodes": 100, "found": {"policies": {"chat": policies, "unrelated": policies}}}
    (tmp_path / "simulation-policies-100-1.json").write_text(json.dumps(results))
    plots.main(["--chapter", "quick", "--found", str(tmp_path), "--to", str(tmp_path / "pictures")])
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "bytes.svg", "cpu.svg", "detection.svg", "first-token.svg", "hits.svg",
    ]  # fmt: skip
    assert "15 nodes" in (tmp_path / "pictures" / "detection.svg").read_text()

"""The local run: the certificate, the EC2 emulator, IMDS, process cleanup and the cache."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local import cache, emulated_instance
from local.certificate import Output, StreamOutcome, build_certificate, passed, quantile
from local.ec2_emulator import (
    MAX_BOOT_FAILURES,
    MAX_LAUNCHES,
    Ec2Emulator,
    GroupAction,
    InstanceView,
    is_failure,
    plan_group,
)
from local.emulated_instance import EmulatedInstance
from local.engine_env import engine_command
from local.errors import LocalRunError, UserActionRequired
from local.imds import TOKEN_PATH, InstanceMetadata, MetadataService
from local.process_cleanup import CleanupProcess, kill_all_in, processes_in, start
from node_agent.contract.aws_events import parse_instance_action, parse_rebalance

# the certificate


def account(delivered: tuple[int, ...], reference: tuple[int, ...] = (1, 2, 3, 4), text: str = "abcd") -> StreamOutcome:
    return StreamOutcome("s", Output(reference, "abcd"), Output(delivered, text), "notice", 5.0)


@pytest.mark.parametrize(
    ("delivered", "lost", "duplicated"),
    [
        ((1, 2, 3, 4), 0, 0),
        ((1, 2, 4), 1, 0),
        ((1, 2, 2, 3, 4), 0, 1),
        ((1, 2), 2, 0),
        ((), 4, 0),
        ((1, 9, 3, 4), 1, 1),
    ],
)
def test_lost_and_repeated_events_are_counted(delivered: tuple[int, ...], lost: int, duplicated: int) -> None:
    stream = account(delivered)
    assert (stream.lost_tokens, stream.duplicated_tokens) == (lost, duplicated)
    assert stream.verified is (delivered == (1, 2, 3, 4))


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)), st.text(), st.text())
def test_chains_are_equal_only_for_equal_answers(a: list[int], b: list[int], s: str, t: str) -> None:
    left, right = Output(tuple(a), s), Output(tuple(b), t)
    assert (left.hash_chain == right.hash_chain) is (left == right)


def test_the_promise_holds_only_without_any_fault() -> None:
    good = build_certificate("sim", 1, {"notice": 1}, [account((1, 2, 3, 4))], 1.0)
    assert passed(good)
    assert good["resumed"] == 1
    assert good["interruptions"] == {"notice": 1, "total": 1}
    assert good["pause_ms"] == {
        "p50": 5.0, "p95": 5.0, "p99": 5.0, "by_kind": {"notice": {"p50": 5.0, "p95": 5.0, "p99": 5.0}},
    }  # fmt: skip
    for bad in (account((1, 2, 3)), account((1, 1, 2, 3, 4)), account((1, 2, 3, 4), text="abXd")):
        assert not passed(build_certificate("sim", 1, {}, [account((1, 2, 3, 4)), bad], 1.0))
    broken = StreamOutcome("s", Output((), ""), Output((), ""), error="APIError")
    assert not passed(build_certificate("sim", 1, {}, [broken], 1.0))


def test_quantiles() -> None:
    assert quantile([], 0.5) is None
    assert [quantile([1, 2, 3, 4], share) for share in (0.5, 0.75, 0.99)] == [2, 3, 4]


# IMDS


METADATA = InstanceMetadata("i-1", "us-east-1a", "us-east-1", "g5.xlarge", "127.0.0.9")
TTL = {"x-aws-ec2-metadata-token-ttl-seconds": "60"}


def get(service: MetadataService, path: str, token: str, now: float = 0.0, **changes: float) -> tuple[int, str]:
    headers = {"x-aws-ec2-metadata-token": token}
    metadata = InstanceMetadata(**{**asdict(METADATA), **changes})
    return service.answer(metadata, "GET", f"/latest/meta-data/{path}", headers, now, "")


def put(service: MetadataService, headers: dict[str, str], token: str) -> tuple[int, str]:
    return service.answer(METADATA, "PUT", TOKEN_PATH, headers, 0.0, token)


def test_imds_answers_only_with_a_token_that_has_not_expired() -> None:
    service = MetadataService()
    assert get(service, "instance-id", "t1")[0] == 401
    assert put(service, TTL, "t1") == (200, "t1")
    assert get(service, "instance-id", "t1", now=59) == (200, "i-1")
    assert get(service, "instance-id", "t1", now=60)[0] == 401
    assert get(service, "autoscaling/target-lifecycle-state", "t1", now=1) == (200, "InService")
    assert get(service, "nothing", "t1", now=1)[0] == 404
    assert service.answer(METADATA, "GET", TOKEN_PATH, TTL, 0.0, "t2")[0] == 405
    for wrong in ("", "0", "21601", "x"):
        assert put(service, {"x-aws-ec2-metadata-token-ttl-seconds": wrong}, "t")[0] == 400


def test_a_notice_and_a_recommendation_appear_when_they_are_given() -> None:
    service = MetadataService()
    put(service, TTL, "t")
    assert get(service, "spot/instance-action", "t")[0] == 404
    assert get(service, "events/recommendations/rebalance", "t")[0] == 404
    assert parse_instance_action(get(service, "spot/instance-action", "t", deadline=1000.0)[1]).deadline == 1000.0
    assert parse_rebalance(get(service, "events/recommendations/rebalance", "t", rebalance_at=900.0)[1]) == 900.0


def test_imds_has_what_cloud_init_and_the_sdks_read() -> None:
    service = MetadataService()
    put(service, TTL, "t")
    metadata = replace(METADATA, user_data="#!/bin/bash\n", role="node", access_key="AKIA1", secret_key="s")

    def read(path: str) -> tuple[int, str]:
        return service.answer(metadata, "GET", path, {"x-aws-ec2-metadata-token": "t"}, 1.0, "")

    assert read("/2021-03-23/user-data") == read("/latest/user-data") == (200, "#!/bin/bash\n")
    top = read("/2021-03-23/meta-data/")[1].splitlines()
    assert {"instance-id", "placement/", "iam/", "local-ipv4"} <= set(top)
    assert "spot/" not in top  # there is no notice
    for path in ("placement", "placement/"):
        assert read(f"/latest/meta-data/{path}") == (200, "availability-zone\nregion")
    assert read("/latest/meta-data/iam/security-credentials/") == (200, "node")
    credentials = json.loads(read("/latest/meta-data/iam/security-credentials/node")[1])
    assert (credentials["AccessKeyId"], credentials["Expiration"]) == ("AKIA1", "1970-01-01T06:00:01Z")
    assert json.loads(read("/latest/dynamic/instance-identity/document")[1])["region"] == "us-east-1"
    for absent in ("/latest/meta-data/place", "/latest/", "/user-data", "/latest/meta-data/nothing/"):
        assert read(absent)[0] == 404
    assert get(service, "iam/security-credentials/", "t")[0] == 404  # an instance without a role
    assert service.answer(METADATA, "GET", "/latest/user-data", {"x-aws-ec2-metadata-token": "t"}, 1.0, "")[0] == 404


# EC2's part


def seen(*names: str, current: bool = True, is_ready: bool = True) -> list[InstanceView]:
    return [InstanceView(name, current, is_ready) for name in names]


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, MAX_LAUNCHES), st.integers(0, 3))
def test_the_group_launches_missing_instances_within_the_runs_bound(
    desired: int, alive: int, launched: int, leaving: int
) -> None:
    step = plan_group(desired, seen(*(f"i-{number}" for number in range(alive))), leaving, launched)
    assert 0 <= step.launch <= MAX_LAUNCHES - launched
    assert not (step.launch and step.terminate)
    after = alive + step.launch - len(step.terminate)
    assert after <= desired
    if launched + desired <= MAX_LAUNCHES:
        assert after == desired


def test_of_too_many_instances_the_oldest_are_terminated() -> None:
    assert plan_group(1, seen("i-old", "i-middle", "i-new"), 0, 3) == GroupAction(0, ("i-old", "i-middle"))


def test_an_update_replaces_one_instance_after_another_the_new_one_first() -> None:
    old = seen("i-1", "i-2", current=False)
    assert plan_group(2, old, 0, 2) == GroupAction(1, ()), "a third one comes first"
    assert plan_group(2, [*old, *seen("i-3", is_ready=False)], 0, 3) == GroupAction(0, ()), "it has to serve"
    assert plan_group(2, [*old, *seen("i-3")], 0, 3) == GroupAction(0, ("i-1",))
    assert plan_group(2, [*old[1:], *seen("i-3")], 1, 3) == GroupAction(1, ()), "its successor comes at once"
    assert plan_group(2, [*old[1:], *seen("i-3", "i-4")], 1, 4) == GroupAction(0, ()), "the first one has to be gone"
    assert plan_group(2, [*old[1:], *seen("i-3", "i-4")], 0, 4) == GroupAction(0, ("i-2",))
    assert plan_group(2, seen("i-3", "i-4"), 1, 4) == GroupAction(0, ())


@given(st.integers(1, 8), st.integers(0, 8), st.randoms(use_true_random=False))
def test_an_update_ends_and_never_has_too_few(desired: int, outdated: int, random: Random) -> None:
    """Each turn the plan is carried out; nodes start to serve, and leave, when they like."""
    nodes = [InstanceView(f"i-{number}", is_current=number >= outdated) for number in range(desired)]
    leaving, launched = 0, desired
    for _ in range(400):
        step = plan_group(desired, nodes, leaving, launched)
        for _ in range(step.launch):
            nodes.append(InstanceView(f"i-{launched}", is_ready=False))
            launched += 1
        nodes = [node for node in nodes if node.instance_id not in step.terminate]
        leaving += len(step.terminate)
        assert leaving <= 1
        assert sum(node.is_ready for node in nodes) >= desired
        nodes = [replace(node, is_ready=node.is_ready or random.random() < 0.5) for node in nodes]
        leaving -= int(leaving and random.random() < 0.5)
        if all(node.is_current and node.is_ready for node in nodes) and not leaving:
            break
    assert [node.is_current for node in nodes] == [True] * desired


def test_an_update_of_a_stopped_fleet_launches_nothing() -> None:
    assert plan_group(0, [], 0, 3) == GroupAction(0, ())
    assert plan_group(0, seen("i-1", current=False), 0, 3) == GroupAction(0, ("i-1",))


def test_a_port_that_is_taken_on_all_addresses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(emulated_instance, "PORTS", (port,))
        with pytest.raises(UserActionRequired, match=f"listens on port {port} of all addresses"):
            emulated_instance.free_network()
    assert emulated_instance.free_network().startswith("127.")


# processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]
IN_A_SESSION = f"import subprocess; subprocess.run({SLEEP!r}, start_new_session=True)"
PARENT = [sys.executable, "-c", IN_A_SESSION]


def wait_for_living(folder: Path, count: int) -> None:
    give_up_at = time.monotonic() + 10
    while len(processes_in(folder)) < count:
        assert time.monotonic() < give_up_at, "the processes did not start"
        time.sleep(0.01)


def test_processes_and_their_children_are_found_by_their_folder_and_ended(tmp_path: Path) -> None:
    run = tmp_path / "run"
    parent = start(PARENT, run / "a", os.environ, run / "log")
    other = start(SLEEP, tmp_path / "other", os.environ, tmp_path / "log")
    try:
        wait_for_living(run, 2)
        assert kill_all_in(run)
        assert parent.wait(10) == -9
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_killed_runs_processes_are_ended_by_its_undertaker(tmp_path: Path) -> None:
    run = tmp_path / "run"
    script = (
        "import os, sys, time; from pathlib import Path; from local.process_cleanup import CleanupProcess, start\n"
        f"run = Path({str(run)!r}); cleanup = CleanupProcess(run)\n"
        f"start({SLEEP!r}, run / 'node', os.environ, run / 'log'); time.sleep(300)"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[3])
    try:
        wait_for_living(run, 1)
        (pid,) = processes_in(run)
    finally:
        driver.kill()
        driver.wait()
    give_up_at = time.monotonic() + 10
    while processes_in(run):
        assert time.monotonic() < give_up_at, f"{pid} outlived its run"
        time.sleep(0.01)


def test_an_undertaker_finishes_on_request(tmp_path: Path) -> None:
    cleanup = CleanupProcess(tmp_path / "run")
    child = start(SLEEP, tmp_path / "run" / "node", os.environ, tmp_path / "run" / "log")
    wait_for_living(tmp_path / "run", 1)
    assert cleanup.scratch.is_dir()
    assert cleanup.finish()
    assert child.wait(5) == -9
    assert not cleanup.scratch.exists()
    assert not (tmp_path / "run").exists()


# nodes that end


@pytest.mark.parametrize("number", [9, 15, 2, 1, 3])
def test_a_node_that_is_killed_from_outside_is_no_failure_of_nodes(number: int) -> None:
    assert not is_failure(-number, served=False)


def test_only_nodes_that_end_before_they_serve_cannot_start() -> None:
    assert [is_failure(status, served=False) for status in (0, 1, -11)] == [False, True, True]
    assert not is_failure(1, served=True)


_numbers = itertools.count(1)


class _FakeInstance:
    """A fake instance; its calls do nothing."""

    def __init__(self, number: int, status: int | None, is_ready: bool = False) -> None:
        self.instance_id = f"i-{number}"
        self.metadata = METADATA
        self.killed = False
        self.status = status
        self.log = Path("a log")
        self._serves = is_ready

    @property
    def running(self) -> bool:
        return self.status is None

    def wait(self) -> int | None:
        return self.status

    def is_ready(self) -> bool:
        return self._serves

    def close(self) -> None:
        pass


class _Aws:
    def client(self, name: str) -> _Aws:
        return self

    def put_events(self, **request: object) -> None:
        pass

    def terminate_instances(self, **request: object) -> None:
        pass


async def _end_instance(emulator: Ec2Emulator[EmulatedInstance], status: int, is_ready: bool = False) -> None:
    instance = _FakeInstance(next(_numbers), None, is_ready)
    emulator.instances.append(instance)  # type: ignore[arg-type] # a fake
    await emulator._update_ready()
    instance.status = status
    await emulator._remove(instance)  # type: ignore[arg-type]


def _emulator() -> Ec2Emulator[EmulatedInstance]:
    return Ec2Emulator(_Aws(), "group", _boot, "127.1.1", lambda text: None)  # type: ignore[arg-type]


def _boot(metadata: InstanceMetadata, version: str) -> EmulatedInstance:
    raise AssertionError("nothing is launched")


def test_agents_can_be_killed_any_number_of_times_and_the_run_stays() -> None:
    async def scenario() -> None:
        emulator = _emulator()
        for is_ready in (True, False) * (2 * MAX_BOOT_FAILURES) + (False,) * (2 * MAX_BOOT_FAILURES):
            await _end_instance(emulator, -9, is_ready)
        for _ in range(2 * MAX_BOOT_FAILURES):
            await _end_instance(emulator, 1, is_ready=True)

    asyncio.run(scenario())


def test_nodes_that_end_before_they_serve_end_the_run_unless_one_served_between() -> None:
    async def scenario() -> None:
        emulator = _emulator()
        for _ in range(MAX_BOOT_FAILURES - 1):
            await _end_instance(emulator, 1)
        await _end_instance(emulator, -9, is_ready=True)
        for _ in range(MAX_BOOT_FAILURES - 1):
            await _end_instance(emulator, 1)
        with pytest.raises(LocalRunError, match="nodes end before they serve"):
            await _end_instance(emulator, 1)

    asyncio.run(scenario())


# the cache


def test_a_result_is_made_once_and_again_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNKTI_CACHE", str(tmp_path))
    made = []

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise LocalRunError("no network")

    with pytest.raises(LocalRunError):
        cache.build_once("thing", fail)
    for _ in range(2):
        folder = cache.build_once("thing", lambda folder: made.append((folder / "half").exists()))
    assert (made, folder) == ([False], tmp_path / "thing")


def test_a_full_disk_is_reported_before_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNKTI_CACHE", str(tmp_path))
    with pytest.raises(UserActionRequired, match=r"no disk space: .* SYNKTI_CACHE"):
        cache.require_space(10**9)


def test_the_plugin_is_only_on_the_engines_path() -> None:
    plain = engine_command(Path("/env"), Path("/model"), "m", "127.0.0.1", 8002)
    plugged = engine_command(Path("/env"), Path("/model"), "m", "127.0.0.1", 8002, Path("/plugin"))
    assert plugged == ["env", "PYTHONPATH=/plugin", *plain]
    assert not any("synkti" in word for word in plain)

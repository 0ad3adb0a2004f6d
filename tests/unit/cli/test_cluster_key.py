"""`synkti cluster-key`: a rotation in three steps, each of which all nodes have read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boto3
import pytest

from cli import cluster_key
from cli.core.cluster_key import foreign, split_fleets
from cli.core.nodes import Node
from cli.exit_codes import ExitCode
from cli.polling import Clock
from node_agent.contract.names import cluster_key_secret_name
from node_agent.contract.states import NodeState
from node_agent.core.common.cluster_keys import ClusterKeySet, parse_cluster_keys
from node_agent.core.common.cluster_keys import cluster_key as key_of
from tests.unit.cli.conftest import DeployedFleet, Run
from tests.unit.cli.fake_clock import FakeClock

OLD, NEW = key_of(b"OldSecret"), key_of(b"NewSecret")


class Nodes:
    """The nodes' part: each reads the secret when time passes, and publishes its keys' ids. deaf: these do not."""

    def __init__(self, fleet: DeployedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fleet = fleet
        self.deaf: set[str] = set()
        self.steps: list[ClusterKeySet] = []
        clock = FakeClock()
        sleep = clock.sleep

        def sleep_and_read(seconds: float) -> None:
            sleep(seconds)
            self.read()

        monkeypatch.setattr(cluster_key, "CLOCK", Clock(lambda: clock.at, sleep_and_read))

    def read(self) -> None:
        keys = secret()
        if not self.steps or self.steps[-1] != keys:
            self.steps.append(keys)
        for name in set(self.fleet.ids) - self.deaf:
            self.fleet.tag(name, ClusterKeys=" ".join(keys.key_ids))


def client() -> Any:
    return boto3.client("secretsmanager")


def secret() -> ClusterKeySet:
    held = client().get_secret_value(SecretId=cluster_key_secret_name("synkti"))["SecretString"]
    return parse_cluster_keys(held.encode())


def store(text: str) -> None:
    client().create_secret(Name=cluster_key_secret_name("synkti"), SecretString=text)


@pytest.fixture
def nodes(fleet: DeployedFleet, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    fleet.ready()
    store("OldSecret")
    made = Nodes(fleet, monkeypatch)
    made.read()
    return made


def test_the_status_names_keys_by_their_ids_only(run: Run, nodes: Nodes) -> None:
    done = run("cluster-key", "status")
    assert done.code == ExitCode.DONE
    assert f"nodes sign with {OLD.key_id}, the only valid key" in done.out
    assert "OldSecret" not in done.out + done.err
    document = run("cluster-key", "status", "--json").document
    assert (document["current"], document["next"], document["nodes_without_newest"]) == (OLD.key_id, None, [])


def test_a_rotation_moves_on_when_all_nodes_have_read_each_step(run: Run, nodes: Nodes) -> None:
    done = run("cluster-key", "rotate", "--yes")
    assert done.code == ExitCode.DONE, done.err
    begun, promoted = nodes.steps[1], nodes.steps[2]
    new = secret().current
    assert begun == ClusterKeySet(OLD, next=new)
    assert promoted == ClusterKeySet(new, previous=OLD)
    assert secret() == ClusterKeySet(new)
    assert len(new.secret) == 64
    assert new.secret.decode() not in done.out + done.err
    assert f"{OLD.key_id} was replaced" in done.out


def test_a_node_that_reads_nothing_holds_the_rotation_up_and_the_command_continues_it(run: Run, nodes: Nodes) -> None:
    late = nodes.fleet.ids[0]
    nodes.deaf = {late}
    done = run("cluster-key", "rotate", "--yes", "--within", "60")
    assert done.code == ExitCode.TIMED_OUT
    assert late in done.err
    assert "both keys stay valid" in done.err
    begun = secret()
    assert begun.next is not None
    status = run("cluster-key", "status")
    assert late in status.out
    nodes.deaf = set()
    assert run("cluster-key", "rotate", "--yes").code == ExitCode.DONE
    assert secret() == ClusterKeySet(begun.next), "the same new key"


def test_a_rotation_that_was_stopped_behind_its_second_step_is_finished(run: Run, nodes: Nodes) -> None:
    client().put_secret_value(
        SecretId=cluster_key_secret_name("synkti"), SecretString=ClusterKeySet(NEW, previous=OLD).to_document()
    )
    assert "is not finished" in run("cluster-key", "status").out
    assert run("cluster-key", "rotate", "--yes").code == ExitCode.DONE
    assert secret() == ClusterKeySet(NEW)


def test_a_node_that_was_shut_out_is_not_waited_for(run: Run, nodes: Nodes) -> None:
    excluded = nodes.fleet.ids[0]
    nodes.deaf = {excluded}
    nodes.fleet.tag(excluded, ShutOut="yes")
    assert run("cluster-key", "rotate", "--yes").code == ExitCode.DONE


def test_a_node_with_a_foreign_key_is_named(run: Run, nodes: Nodes) -> None:
    nodes.fleet.tag(nodes.fleet.ids[0], ClusterKeys="0123abcd")
    done = run("cluster-key", "status")
    assert f"a fleet of their own: {nodes.fleet.ids[0]}" in done.out


def no_secret() -> None:
    """The stacks were not deployed."""


@pytest.mark.parametrize(
    ("prepare", "code", "message"),
    [
        (no_secret, ExitCode.NOT_FOUND, "there is no secret"),
        (lambda: store('{"next": "x"}'), ExitCode.FAILED, "no current key"),
        (lambda: store("{not json"), ExitCode.FAILED, "is none"),
    ],
)
def test_a_secret_without_keys_is_a_plain_error(
    run: Run, fleet: DeployedFleet, prepare: Callable[[], None], code: ExitCode, message: str
) -> None:
    fleet.ready()
    prepare()
    for command in ("status", "rotate"):
        done = run("cluster-key", command, *(["--yes"] if command == "rotate" else []))
        assert done.code == code
        assert message in done.err
        assert "not json" not in done.err


def node(number: int, keys: str, *, shut_out: bool = False) -> Node:
    return Node(
        f"i-{number}", NodeState.READY, "running", "g6.xlarge", "z", "spot", None, None, None, None, 0.0, None,
        tuple(keys.split()), shut_out,
    )  # fmt: skip


def test_nodes_are_grouped_by_common_keys() -> None:
    nodes = [
        node(1, "11111111 22222222"), node(2, "33333333"), node(3, "44444444"), node(4, "22222222 44444444"),
        node(5, ""), node(6, "55555555", shut_out=True),
    ]  # fmt: skip
    assert [sorted(group) for group in split_fleets(nodes)] == [["i-1", "i-3", "i-4"], ["i-2"]]
    assert foreign(nodes, ("11111111", "22222222")) == ["i-2", "i-3"]

"""Test how a node runs a drain, and the record that it writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from node_agent.contract.drain_record import DrainRecord, DrainStepName
from node_agent.contract.states import NodeState
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import Handoff, Loss
from node_agent.core.node.lifecycle import Publish
from node_agent.runtime.drain.controller import DrainController
from node_agent.runtime.engine.active_requests import EngineCalls
from node_agent.runtime.engine.engine_call import EngineCall
from node_agent.runtime.node.context import NodeContext
from tests.unit.runtime.a_node import make_node


class Exchange:
    """A request at the engine: `pieces` came, one each 10 ms."""

    def __init__(self, pieces: int) -> None:
        self.reads = pieces
        self.status, self.is_event_stream = 200, True
        self.first_read_at, self.last_read_at = 100.0, 100.0 + 0.01 * (pieces - 1)
        self.aborted: list[Loss] = []

    def abort(self, loss: Loss) -> None:
        self.aborted.append(loss)

    def close(self) -> None:
        """Nothing to close."""


class Engine:
    """The Http port: each request is one of these."""

    def __init__(self) -> None:
        self.reads = 50
        self.exchanges: list[Exchange] = []

    def request(self, *_: object, **__: object) -> Exchange:
        self.exchanges.append(Exchange(self.reads))
        return self.exchanges[-1]


class Stage:
    def __init__(self, peers: int) -> None:
        self.now = 1_000.0
        self.node: NodeContext = make_node(peers)
        self.node.wall_clock = lambda: self.now
        self.engine = Engine()
        http: Any = self.engine
        self.served = EngineCalls(self.node, http, Address("127.0.0.1", 1))
        self.kept: list[DrainRecord] = []
        self.left: list[Sequence[str]] = []
        self.draining = DrainController(self.node, self.served, self.kept.append, self.left.append)

    def request(self, max_tokens: int | None) -> EngineCall:
        headers = {"x-request-id": f"stream-{len(self.engine.exchanges)}"}
        return self.served.request("POST", "/v1/completions", headers, b"x" * 400, max_tokens, 1.0)

    def begin(self, left_s: float) -> float:
        self.node.set_state(NodeState.DRAINING)
        deadline = self.now + left_s
        self.draining.begin(Publish(NodeState.DRAINING, "notice-seen", "imds", self.now - 0.1, deadline))
        return deadline

    @property
    def steps(self) -> dict[str, int | None]:
        return {step.step: step.count for step in self.kept[-1].steps}


def run_scenario(scenario: Callable[[Stage], None], peers: int = 2) -> None:
    async def run() -> None:
        scenario(Stage(peers))

    asyncio.run(run())


def test_requests_that_cannot_finish_move_to_nodes_with_room_and_are_recorded() -> None:
    def scenario(stage: Stage) -> None:
        short, long, unknown = stage.request(200), stage.request(100_000), stage.request(None)
        deadline = stage.begin(60.0)
        stage.draining.run_plan(deadline)
        aborts = [exchange.aborted for exchange in stage.engine.exchanges]
        assert aborts[0] == []
        assert all(isinstance(loss, Handoff) and loss.target is not None for (loss,) in aborts[1:])
        assert [set(streams) for streams in stage.left] == [{"stream-1", "stream-2"}]
        for gone in (long, unknown):
            gone.close()
        stage.now += 2.0
        short.close()
        stage.draining.run_plan(deadline)
        stage.draining.record_step(DrainStepName.RETIRED)
        assert stage.steps == {
            "requested": None, "cordoned": None, "planned": 2, "handed-off": 2, "finished": 1, "retired": None,
        }  # fmt: skip
        drain_json = stage.kept[-1].to_json()
        assert [step["left_s"] for step in drain_json["steps"] if step["step"] in ("requested", "finished")] == [
            60.1,
            58.0,
        ]

    run_scenario(scenario)


def test_without_another_node_streams_stay_until_the_last_moments() -> None:
    def scenario(stage: Stage) -> None:
        stage.request(None)
        deadline = stage.begin(60.0)
        stage.draining.run_plan(deadline)
        assert stage.engine.exchanges[0].aborted == []
        stage.now = deadline - 5.0
        stage.draining.run_plan(deadline)
        assert stage.engine.exchanges[0].aborted == [Handoff()]

    run_scenario(scenario, peers=0)


def test_closed_clients_are_counted_and_a_node_without_a_drain_leaves_no_record() -> None:
    def scenario(stage: Stage) -> None:
        stage.draining.record_step(DrainStepName.RETIRED)
        assert stage.kept == []
        assert stage.draining.record is None
        stage.request(None)
        stage.begin(8.0)
        stage.draining.close(clients=3)
        assert stage.steps["clients-closed"] == 3
        assert stage.steps["handed-off"] == 1

    run_scenario(scenario)

"""Arbitrary values, delays and errors at every border: the agent keeps running, and serves a stream afterwards.

The borders are the ports of `node_agent/ports`. A port, or a method of one, that is added there without a strategy
here fails the first test.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node_agent.contract.aws_events import InterruptionNotice
from node_agent.contract.errors import MetadataUnavailable, StaleEpoch, StoreUnavailable
from node_agent.contract.open_streams import OpenStream, OpenStreams
from node_agent.contract.ownership import Ownership
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import RecordMissing, StreamRecord, StreamStatus
from node_agent.core.engine.liveness import IDLE_PROBE_S
from node_agent.core.engine.polled_paths import POLLED_PATHS
from node_agent.core.kv.index import Index
from node_agent.core.membership.wire.messages import MessageMac
from node_agent.core.node.status import TaggedNode
from node_agent.core.replication.protocol import PREFACE
from node_agent.settings import from_environ
from tests.borders.agent_fixture import KEY, MODEL, AgentFixture, Delay, Raise, Return, Turn, run_agent
from tests.borders.port_protocols import methods, protocols
from tests.borders.virtual_time import run_virtual

SLOW = st.builds(Delay, st.sampled_from([0.5, 5.0, 50.0, 5_000.0]))
STORE_ERROR = st.just(Raise(lambda: StoreUnavailable("away")))
METADATA_ERROR = st.just(Raise(lambda: MetadataUnavailable("away")))
FLOATS = st.floats()
TEXTS = st.text(max_size=20)
ADDRESSES = st.sampled_from(
    ["10.71.3.7", "node-7.internal:8001", "[::1]:8001", "127.0.0.1:0", "127.0.0.1:99999", "", ":1", "127.0.0.1:٣",
     "255.255.255.255:9", "127.0.0.1:1"]
) | TEXTS  # fmt: skip
TAGGED = st.lists(st.builds(TaggedNode, TEXTS, ADDRESSES, st.sampled_from([None, *NodeState])), max_size=300)
INTEGERS = st.integers(-(2**70), 2**70)
STREAM_RECORDS = st.builds(
    StreamRecord, TEXTS, INTEGERS, TEXTS, INTEGERS, st.sampled_from(StreamStatus), TEXTS, INTEGERS, INTEGERS, TEXTS,
    INTEGERS,
)  # fmt: skip
STREAM_IDS = st.just("a" * 24) | TEXTS
OPEN_STREAMS = st.builds(
    OpenStreams, TEXTS, st.integers(0, 2**53),
    st.lists(
        st.builds(OpenStream, STREAM_IDS, st.integers(0, 9), TEXTS, st.integers(0, 9), st.floats(0, 1e9)), max_size=9
    ).map(tuple),
    st.integers(0, 2**40), st.dictionaries(TEXTS, ADDRESSES, max_size=3),
)  # fmt: skip
OWNERSHIPS = st.none() | st.builds(
    Ownership, STREAM_IDS, INTEGERS, TEXTS, st.sampled_from(StreamStatus), INTEGERS, FLOATS, FLOATS,
    st.just(2**40) | INTEGERS, st.dictionaries(TEXTS, st.just("127.0.0.1:1"), max_size=3),
)  # fmt: skip
BODIES = st.binary(max_size=200) | st.sampled_from(
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"NaN", b'{"data":[{"id":null}]}', b'{"data":[1]}', b"[" * 5000,
     b"vllm:num_requests_running NaN\nvllm:num_requests_waiting +Inf\nvllm:kv_cache_usage_perc -Inf\n",
     b"vllm:num_requests_running 1e400\nvllm:num_requests_waiting -5\nvllm:kv_cache_usage_perc 7\n",
     b'{"choices":[{"index":9,"text":1}],"usage":{"prompt_tokens":"x"}}', b'{"choices":null}',
     b"HTTP/1.1 200 OK\r\n\r\n"]
)  # fmt: skip


def turns(*rubbish: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Turn]]:
    return st.lists(st.one_of(st.none(), SLOW, *rubbish), min_size=1, max_size=4)


def returns(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Return]:
    return st.builds(Return, values)


STORED = turns(STORE_ERROR)
SECRETS = st.one_of(
    st.binary(max_size=60).filter(lambda data: not data.strip() or data.lstrip().startswith(b"{")),
    st.sampled_from([b"", b"{}", b"[]", b'{"current": 1}', b'{"next": "x"}', b'{"current": "' + b"x" * 5_000 + b'"}']),
    st.just(b'{"current": "cluster key", "next": "another key"}'),
)
"""Unusable documents, and a usable one with the key that the agent has."""

PORT_TURNS: dict[tuple[str, str], st.SearchStrategy[list[Turn]]] = {
    ("Metadata", "interruption"): turns(METADATA_ERROR),  # a notice starts a drain: tested below
    ("Metadata", "rebalance"): turns(METADATA_ERROR, returns(FLOATS)),
    ("Metadata", "termination_requested"): turns(METADATA_ERROR, returns(st.none())),
    ("Instances", "tag"): STORED,
    ("Instances", "untag"): STORED,
    ("Instances", "nodes"): turns(STORE_ERROR, returns(TAGGED)),
    ("Records", "begin"): STORED,
    ("Records", "advance"): turns(
        STORE_ERROR, st.just(Raise(lambda: StaleEpoch("another"))), st.just(Raise(lambda: RecordMissing("gone", {})))
    ),
    ("Records", "put_drain"): STORED,
    ("Checkpoints", "write"): STORED,
    ("Checkpoints", "find"): turns(STORE_ERROR, returns(STREAM_RECORDS)),
    ("Checkpoints", "read"): turns(STORE_ERROR, returns(st.binary(max_size=100))),
    ("StreamRecords", "write_open"): turns(STORE_ERROR, st.just(Raise(lambda: StaleEpoch("another")))),
    ("StreamRecords", "read_open"): turns(STORE_ERROR, returns(OPEN_STREAMS)),
    ("StreamRecords", "advance"): STORED,
    ("StreamRecords", "find"): turns(STORE_ERROR, returns(OWNERSHIPS)),
    ("BlockStore", "keep"): STORED,
    ("BlockStore", "index"): turns(
        STORE_ERROR, returns(st.builds(Index, st.binary(max_size=8), st.just(()), st.just(())))
    ),
    ("BlockStore", "fetch"): turns(STORE_ERROR, returns(st.binary(max_size=100))),
    ("Secrets", "read"): turns(STORE_ERROR, returns(SECRETS)),
    ("ScalingGroup", "complete_termination"): turns(STORE_ERROR, returns(st.booleans())),
    ("KeyStore", "read"): turns(STORE_ERROR, returns(BODIES)),
    ("AuditLog", "write"): STORED,
}
"""What a call of a port's method may do."""

BYTES = {
    "Response": "the engine answers /metrics, /v1/models, /version and /health with any bytes",
    "Http": "a peer's APIs answer with any bytes, and a peer's address is anything",
    "ServerRequest": "both APIs receive any bytes",
    "Datagrams": "datagrams have any bytes, with and without the cluster's MAC",
    "ReplicaLink": "a peer answers the handshake with any bytes",
    "ReplicaLinks": "the same",
    "EngineSteps": "files in its folder have any names and any bytes",
    "LinkListener": "called by our own link, with what it parsed of those bytes",
}
"""Ports whose outside is bytes, which the tests send to and from real sockets of the agent."""

OURS = {
    ("Metadata", "identity"): "read before an agent is there; its border is tests/borders/test_adapters.py",
    ("PeerKeys", "public_key"): "our own record of EC2's listings, which Instances.nodes covers",
    ("PeerKeys", "node_of"): "as public_key",
    ("Certificate", "versions"): "our own files; tests/unit/adapters/test_certificate_files.py",
    ("Certificate", "load"): "as versions, which has files with any content",
    ("KeyStore", "interval_s"): "a constant of our adapter",
    ("KeyStore", "remembered"): "read before an agent is there, from its own folder in memory",
    ("KeyStore", "keep"): "returns nothing",
    ("EngineGroup", "start"): "our own process: tests/unit/adapters/test_engine_process.py covers /proc",
    ("EngineGroup", "wait"): "an exit status; tests/unit/runtime/engine/test_supervisor.py",
    ("EngineGroup", "had_oom_kill"): "as start",
    ("EngineGroup", "last_output"): "as start; tests/unit/core/engine/test_last_words.py has hostile output",
    ("EngineGroup", "is_suspended"): "as start",
    ("EngineGroup", "note_shared_memory"): "as start",
    ("EngineGroup", "stop"): "as start",
}
"""Methods that return nothing arbitrary to a running agent, with the reason."""


def borders() -> set[tuple[str, str]]:
    """Return each method of each port of `node_agent/ports`."""
    return {(name, method) for name, port in protocols().items() for method in methods(port)}


def test_every_method_of_every_port_has_a_strategy_or_a_reason() -> None:
    named = set(PORT_TURNS) | set(OURS) | {(port, method) for port, method in borders() if port in BYTES}
    assert borders() == named
    assert set(BYTES) <= {port for port, _ in borders()}


TURNS = st.fixed_dictionaries(dict(PORT_TURNS))
ENGINE = st.fixed_dictionaries({path: st.lists(BODIES, max_size=2) for path in ("/metrics", "/v1/models", "/version")})
RAW_REQUESTS = st.lists(
    BODIES
    | st.sampled_from(
        [PREFACE + b"x y z\n", PREFACE + b"\xff" * 50 + b"\n", b"GET / HTTP/1.1\r\n\r\n",
         b"POST /peer/v1/members HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
         b"GET /v1/streams/\xff HTTP/1.1\r\nlast-event-id: a/b\r\n\r\n",
         b"POST /v1/completions HTTP/1.1\r\ncontent-length: 9\r\n\r\n{\"n\":NaN}"]
    ),
    max_size=4,
)  # fmt: skip


async def send_raw(host: str, port: int, data: bytes) -> None:
    """Connect, send these bytes, read for at most a second, and disconnect."""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(data)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await reader.read(1024)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def unknown_peer(host: str, answers: list[bytes]) -> Any:
    """Listen as a peer that answers every connection with arbitrary bytes, and closes it."""
    count = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(5.0):
                await reader.read(1024)
            writer.write(answers[count % len(answers)] if answers else b"")
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(answer, host, 8001):
        yield


def run_with_turns(folder: Path, turns: Any, scenario: Any) -> None:
    by_port: dict[str, dict[str, Any]] = {}
    for (port, method), each in turns.items():
        by_port.setdefault(port, {})[method] = each

    async def run() -> None:
        monkeypatch = pytest.MonkeyPatch()
        try:
            async with run_agent(folder, monkeypatch, by_port) as made:
                await scenario(made)
        finally:
            monkeypatch.undo()

    run_virtual(run)


async def assert_serves(made: AgentFixture) -> None:
    """Assert that the agent becomes ready and serves a stream to its end, without an unexpected exception."""
    made.calm()
    assert await made.ready(300.0), "the agent is no longer ready"
    text, reason = await made.stream()
    assert text
    assert reason == "length"
    assert made.bugs() == 0


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(TURNS, ENGINE, RAW_REQUESTS, st.lists(st.binary(max_size=60), max_size=5), st.lists(BODIES, max_size=3))
def test_after_arbitrary_input_at_every_border_the_agent_serves_a_stream(
    tmp_path_factory: pytest.TempPathFactory,
    turns: dict[tuple[str, str], list[Turn]],
    engine: dict[str, list[bytes]],
    raw_requests: list[bytes],
    datagrams: list[bytes],
    answers: list[bytes],
) -> None:
    async def scenario(made: AgentFixture) -> None:
        await made.ready(60.0)
        made.engine.odd.update(engine)
        for number, data in enumerate(datagrams):
            name = data[:20].replace(b"/", b"").replace(b"\0", b"") or b"0"
            (made.folder / "steps" / os.fsdecode(b"%d" % number + name)).write_bytes(data)
        peer = f"127.9.{made.host.split('.')[2]}.{made.host.split('.')[3]}"
        async with unknown_peer(peer, answers):
            made.introduce(peer)
            for data in datagrams:
                made.datagram(data)
                made.datagram(MessageMac(KEY).append(data))
            for data in raw_requests:
                await send_raw(made.host, 8000, data)
                await send_raw(made.host, 8001, data)
            streams = [asyncio.create_task(made.stream()) for _ in range(2)]
            await made.request("GET", f"/v1/streams/{'a' * 24}")
            await asyncio.wait(streams, timeout=120.0)
            for each in streams:
                each.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
            await asyncio.sleep(60.0)
            assert made.lives(), "a value from a port ended the agent"
        await assert_serves(made)

    run_with_turns(tmp_path_factory.mktemp("agent"), turns, scenario)


@pytest.mark.parametrize("turn", ["never answers", "always fails"])
def test_an_aws_that_never_answers_or_always_fails_does_not_end_the_agent(tmp_path: Path, turn: str) -> None:
    async def scenario(made: AgentFixture) -> None:
        assert await made.ready(60.0), "a node serves without AWS"
        await asyncio.sleep(60.0)
        assert (await made.stream())[1] == "length"
        await assert_serves(made)

    def failing(port: str) -> Turn:
        return Raise(lambda: (MetadataUnavailable if port == "Metadata" else StoreUnavailable)("away"))

    odd = {key: [Delay(10_000.0) if turn == "never answers" else failing(key[0])] for key in PORT_TURNS}
    run_with_turns(tmp_path, odd, scenario)


def test_what_an_idle_agent_requests_of_its_engine_stays_out_of_the_engines_log(tmp_path: Path) -> None:
    """vLLM writes a line for each request; those of ten idle minutes are left out by an argument of the engine.

    The watchdog's probes stay: their path is one of clients, too.
    """

    async def scenario(made: AgentFixture) -> None:
        assert await made.ready(60.0)
        made.engine.requested.clear()
        await asyncio.sleep(600.0)
        polls = {path: count for path, count in made.engine.requested.items() if path in POLLED_PATHS}
        assert set(polls) == set(POLLED_PATHS)
        probes = made.engine.requested.total() - sum(polls.values())
        assert set(made.engine.requested) - set(polls) == {"/v1/completions"}
        assert min(polls.values()) > 60, "again and again"
        assert probes <= 600 / IDLE_PROBE_S
        command = from_environ({"SYNKTI_MODEL_NAME": MODEL, "SYNKTI_MODEL_DIR": "unused"}).engine.command
        assert command[command.index("--disable-access-log-for-endpoints") + 1].split(",") == list(POLLED_PATHS)

    run_with_turns(tmp_path, {}, scenario)


SERVICES = {
    "IMDS": ("Metadata",),
    "EC2": ("Instances",),
    "DynamoDB": ("Records",),
    "S3": ("Checkpoints", "BlockStore"),
    "Auto Scaling": ("ScalingGroup",),
}
OUTAGE_S, CAUGHT_UP_S = 300.0, 200.0


@pytest.mark.parametrize("service", SERVICES)
def test_five_minutes_without_one_service_cost_no_stream_and_are_caught_up_with(tmp_path: Path, service: str) -> None:
    """It does not answer, is slow, refuses, and breaks its adapter, in turn, from the start of the agent on."""

    async def scenario(made: AgentFixture) -> None:
        clock = asyncio.get_running_loop().time
        assert await made.ready(60.0)
        until = clock() + OUTAGE_S
        while clock() < until:
            assert (await made.stream())[1] == "length"
            assert await made.request("GET", "/readyz") == 200
            await asyncio.sleep(OUTAGE_S / 10)
        assert made.lives()
        made.calm()
        await asyncio.sleep(CAUGHT_UP_S)
        instance_id = made.agent.parts.node.instance_id
        assert made.twins["Instances"].tags[instance_id]["SynktiState"] == "ready"
        steps = [step.step for step in made.twins["Records"].records[instance_id].story]
        # The clock jumps while a thread works: on a busy machine the engine may seem to be silent, and is started anew.
        assert steps[:2] == ["started", "ready"]

    def away(port: str) -> list[Turn]:
        error: Exception = MetadataUnavailable("away") if port == "Metadata" else StoreUnavailable("away")
        bug = ValueError("<html>502 Bad Gateway</html>")
        return [Raise(lambda: bug), Raise(lambda: error), Delay(8.0), Delay(10_000.0)]

    turns = {key: away(key[0]) for key in PORT_TURNS if key[0] in SERVICES[service]}
    run_with_turns(tmp_path, turns, scenario)


METRIC_VALUES = ["NaN", "+Inf", "-Inf", "1e400", "-5", "x", ""]


def test_engine_metrics_that_are_no_numbers_do_not_end_the_agent(tmp_path: Path) -> None:
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")

    async def scenario(made: AgentFixture) -> None:
        assert await made.ready(60.0)
        made.engine.odd["/metrics"] = [
            "".join(f"vllm:{name} {value}\n" for name in names).encode() for value in METRIC_VALUES
        ]
        await asyncio.sleep(20.0)
        await assert_serves(made)

    run_with_turns(tmp_path, {}, scenario)


def test_three_hundred_nodes_with_invalid_addresses_do_not_end_the_agent(tmp_path: Path) -> None:
    odd = ["10.71.3.7", "node:8001", "[::1]:8001", "127.0.0.1:70000", "127.0.0.1:²", "\ud800:1", "x" * 5000]
    nodes = [TaggedNode(f"i-{n}", odd[n % len(odd)], NodeState.READY) for n in range(300)]

    async def scenario(made: AgentFixture) -> None:
        assert await made.ready(60.0)
        await asyncio.sleep(120.0)
        await assert_serves(made)

    run_with_turns(tmp_path, {("Instances", "nodes"): [Return(nodes)]}, scenario)


@pytest.mark.parametrize("deadline", [float("inf"), float("nan"), -1.0, 0.0, 1e300])
def test_a_notice_with_any_deadline_is_an_orderly_drain(tmp_path: Path, deadline: float) -> None:
    async def scenario(made: AgentFixture) -> None:
        assert await made.ready(60.0)
        made.odd["Metadata"].set_turns("interruption", [Return(InterruptionNotice(deadline, "?"))])
        assert made.life is not None
        await asyncio.wait({made.life}, timeout=200.0)
        assert made.life.result() == 0
        assert made.bugs() == 0

    run_with_turns(tmp_path, {("Metadata", "interruption"): [None]}, scenario)


def test_a_bug_in_a_loop_is_counted_and_the_loop_continues(tmp_path: Path) -> None:
    """An undocumented exception at a port, in one iteration of a loop."""

    async def scenario(made: AgentFixture) -> None:
        assert await made.ready(60.0)
        await asyncio.sleep(60.0)
        assert made.lives()
        assert made.bugs() > 1
        assert (await made.stream())[1] == "length"

    bug = Raise(lambda: ZeroDivisionError("a bug"))
    every: dict[Any, Any] = {
        ("Instances", "nodes"): [bug],
        ("Metadata", "rebalance"): [bug],
        ("Records", "begin"): [bug],
    }
    run_with_turns(tmp_path, every, scenario)

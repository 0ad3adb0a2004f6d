"""Each parser of external bytes or texts, as a function of bytes that may raise only its documented errors."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from cli.core.gguf import min_size
from cli.core.safetensors import Unreadable, header_bytes, parse_header
from node_agent.adapters.engine_steps import EngineStepFiles
from node_agent.adapters.http_server import HttpServer
from node_agent.adapters.http_server_connection import ServerConnection
from node_agent.adapters.shared_memory import SharedMemoryNotes
from node_agent.contract.addresses import read_node_address
from node_agent.contract.aws_events import parse_event, parse_instance_action, parse_rebalance
from node_agent.contract.capacity import capacity_from_item, parse_launch
from node_agent.contract.drain_record import drain_from_item
from node_agent.contract.errors import ConfigurationError, RequestRejected
from node_agent.contract.launch_breaker import breaker_from_item, parse_breaker_event
from node_agent.contract.models import parse_manifest
from node_agent.contract.open_streams import open_streams_from_item
from node_agent.contract.ownership import ownership_from_item
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import record_from_item, stream_record_from_item
from node_agent.contract.tags import decode_tags, tags_from_ec2
from node_agent.contract.timestamps import parse_instant
from node_agent.core.access.credentials import read_key
from node_agent.core.access.key_document import parse_key_document
from node_agent.core.access.token_estimate import read_usage
from node_agent.core.common.address import parse_address
from node_agent.core.common.cluster_keys import cluster_key
from node_agent.core.common.request_auth import RequestVerifier, read_clock
from node_agent.core.engine.last_words import last_words
from node_agent.core.engine.launch import parse_report, parse_request, parse_stop
from node_agent.core.engine.metrics import parse_metrics
from node_agent.core.failure.error_body import classify_body as read_error
from node_agent.core.failure.report import parse_loss
from node_agent.core.journal.epochs import parse_event_id
from node_agent.core.journal.records import parse_token_records, read_records
from node_agent.core.journal.stream_header import is_durable, parse_stream_header
from node_agent.core.kv.blocks import read_header
from node_agent.core.kv.index import parse_index, parse_names
from node_agent.core.membership import Membership, Received, SyncReplied, SyncRequested, Tick
from node_agent.core.membership.wire.key_usage import read_key_usage
from node_agent.core.membership.wire.messages import MessageMac
from node_agent.core.node.status import NodeStatus, Pool, load_from_header
from node_agent.core.openai.generation_request import ApiRoute, PassThroughRequest, parse_generation
from node_agent.core.openai.model_cards import read_cards
from node_agent.core.openai.request_body import read_body
from node_agent.core.openai.sse import EventTooLarge, SseParser
from node_agent.core.policy.cache_salt import SaltMode
from node_agent.core.policy.control_tokens import ControlTokens
from node_agent.core.policy.regex import pattern_defect
from node_agent.core.policy.request_policy import PolicySettings, RequestPolicy
from node_agent.core.replication.protocol import BadFrame, FrameReader, FrameWriter, check_append, read_open
from node_agent.core.sizing.engine_options import read_options
from node_agent.core.sizing.facts import CONFIG, ModelFiles, parse_facts
from node_agent.core.sizing.model_shape import read_shape
from node_agent.core.streams.factory import new_stream
from node_agent.settings import from_environ
from stacks.settings import load
from synkti_client._nodes import Nodes
from synkti_client._resumable_sse import ResumableSse

KEY = b"key"


@dataclass(frozen=True)
class Target:
    """A parser under test. expected: its documented errors; seeds: valid inputs."""

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    expected: tuple[type[Exception], ...] = (ValueError,)


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode("utf-8", errors="surrogateescape"))


def _item(read: Callable[[Any], object]) -> Callable[[bytes], object]:
    """Return a parser of JSON mappings. Input that is no JSON mapping is skipped."""

    def parse(data: bytes) -> object:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return None
        return read(value) if isinstance(value, dict) else None

    return parse


def _tags(data: bytes) -> object:
    try:
        return decode_tags(tags_from_ec2(json.loads(data)))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return None


def _policy(data: bytes) -> object:
    """Apply the policy of each route to a body, with everything turned on."""
    settings = PolicySettings(allowed_media_domains=("a.example",), max_data_url_bytes=100, cache_salt=SaltMode.PER_KEY)
    policy = RequestPolicy(settings, ControlTokens(frozenset({"<|a|>"}), frozenset({7})), lambda: KEY)
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"):
        policy.apply(path, read_body(data).value, 10**6, 4_096, "a")
    return None


def _form(data: bytes) -> object:
    return RequestPolicy().apply_form("/v1/audio/transcriptions", data, b"multipart/form-data; boundary=x")


def _membership(data: bytes) -> object:
    """Parse a datagram with a valid MAC, as only a holder of the cluster's key can send it."""
    status = NodeStatus("i-0", "10.0.0.1:1", "", NodeState.READY, Pool("z", "t"), "m", 1)
    machine = Membership(status, b"mylife", KEY, 0.0, lambda: 0.5)
    machine.add_member(b"peersl", NodeStatus("i-1", "10.0.0.2:1", "", NodeState.READY, Pool("z", "t"), "m", 1))
    sealed = MessageMac(KEY).append(data)
    for event in (Received(0.0, data), Received(0.0, sealed), SyncRequested(0.1, sealed), SyncReplied(0.2, sealed)):
        machine.handle(event)
    for second in range(1, 8):
        machine.handle(Tick(float(second)))
    return machine.status


def _journal(data: bytes) -> object:
    FrameReader(KEY, b"client").feed(data)
    return FrameReader(KEY, b"client").feed(FrameWriter(KEY, b"client").frame(data))


def _open(data: bytes) -> object:
    check_append(1, data)
    return read_open(data.count(b"\n") - 2, data)


def _sse(data: bytes) -> object:
    whole = SseParser().feed(data)
    parser = SseParser()
    split = [event for at in range(0, len(data), 7) for event in parser.feed(data[at : at + 7])]
    assert split == whole, "how bytes are cut changes nothing"
    return whole


def _generation(kind: ApiRoute) -> Callable[[bytes], object]:
    return lambda data: parse_generation(kind, read_body(data)).engine_body()


def _engine_stream(route: ApiRoute) -> Callable[[bytes], object]:
    """Return a parser of an engine's stream, which is the machine of a client's stream on that route."""
    prompt = {"messages": [{"role": "user", "content": "q"}], "prompt": "q", "input": "q"}
    body = orjson.dumps({"model": "m", "stream": True, "n": 2, "max_tokens": 8, **prompt})

    def parse(data: bytes) -> object:
        stream = new_stream(parse_generation(route, read_body(body)), "s")
        stream.request(("resume", "forced"))
        return [stream.feed(data[at : at + 50]) for at in range(0, len(data), 50)]

    return parse


def _steps(data: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "0").write_bytes(data)
        return EngineStepFiles(Path(folder)).read()


def _model_config(data: bytes) -> object:
    return read_shape(parse_facts(ModelFiles({CONFIG: data}, {})).config)


def _node_list(data: bytes) -> object:
    nodes = Nodes(["http://a:1"])
    nodes.update_from("http://a:1/v1/synkti/nodes", data)
    return nodes.by_preference()


def _key_document(data: bytes) -> object:
    found = parse_key_document(data)
    again = parse_key_document(found.to_bytes())
    assert [entry.key_id for entry in again.keys] == [entry.key_id for entry in found.keys], "it can be written"
    return found


def _credentials(data: bytes) -> object:
    """Read a key from a header, and from a query."""
    target, _, value = data.partition(b"\n")
    return read_key({b"authorization": value, b"x-api-key": value}, target.decode("latin-1"))


def _environ(data: bytes) -> object:
    pairs = (line.partition(b"=")[::2] for line in data.split(b"\n"))
    return from_environ({k.decode(errors="surrogateescape"): v.decode(errors="surrogateescape") for k, v in pairs})


def _toml(data: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "synkti.toml").write_bytes(data)
        return load(Path(folder), lambda _: None)


def _notes(data: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "engine.shm").write_bytes(data)
        return SharedMemoryNotes(Path(folder) / "engine.shm")


def _stamp(data: bytes) -> object:
    return RequestVerifier("i", "r", lambda *_: cluster_key(KEY)).verify(data.decode("latin-1"), "", 1.0)


def _safetensors(data: bytes) -> object:
    return parse_header(data[8 : 8 + header_bytes(data[:8], len(data))])


class _Transport:
    """A transport that discards what is written."""

    def __init__(self) -> None:
        self.sent = 0

    def write(self, data: bytes) -> None:
        self.sent += len(data)

    def get_extra_info(self, _: str, default: object = None) -> object:
        return default

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_, **__: False


@lru_cache(maxsize=1)
def _server() -> HttpServer:
    async def handle(request: Any) -> None:
        """Never called: only the parsing of requests is tested."""

    return HttpServer(handle)


def _no_loop(request: Any, *, is_refused: bool = False) -> Any:
    """Answer nothing: there is no loop."""


def _http_server(data: bytes) -> object:
    """Parse a client's bytes; complete requests are not answered."""
    server = _server()
    server.run = _no_loop  # type: ignore[method-assign]
    transport: Any = _Transport()
    door = ServerConnection(server)
    door.connection_made(transport)
    for at in range(0, len(data), 50):
        door.data_received(data[at : at + 50])
    door.connection_lost(None)
    assert transport.sent < 100_000 + 100 * len(data)
    return None


CHAT = b'{"model":"m","messages":[{"role":"user","content":"a"}],"stream":true,"max_tokens":5,"n":2,"seed":1}'
PLAIN = b'{"model":"m","prompt":["a",[1,2]],"stream":true,"echo":false,"stop":["x"],"logprobs":1,"max_tokens":3}'
SCHEMA_BODY = (
    b'{"model":"m","messages":[],"response_format":{"type":"json_schema","json_schema":{"schema":{"$ref":"#/$defs/a",'
    b'"$defs":{"a":{"pattern":"^a{1,3}$","items":{"$ref":"#"}}}}}},"tools":[{"function":{"parameters":{"type":"object"}}}]}'
)
PARTS_BODY = (
    b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a","x":1},{"type":"image_url",'
    b'"image_url":{"url":"https://a.example/b"}},{"type":"image","source":{"type":"base64","data":"AAAA"}}]}]}'
)
FORM = (
    b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\ncontent-type: a/b\r\n\r\nRIFF\r\n--x\r\n'
    b'content-disposition: form-data; name="n"\r\n\r\n2\r\n--x--\r\n'
)
OPENING = orjson.dumps(
    {"kind": "/v1/chat/completions", "body": orjson.loads(CHAT), "runs": [[0, 1, "i-1"]], "durable": True}
)
EVENT = (
    b'{"id":"e","detail-type":"EC2 Spot Instance Interruption Warning","time":"2026-11-23T10:00:00Z",'
    b'"detail":{"instance-id":"i-0123456789abcdef0","instance-action":"terminate"}}'
)
LAUNCH = (
    b'{"id":"e","detail-type":"EC2 Instance Launch Unsuccessful","time":"2026-11-23T10:00:00Z",'
    b'"detail":{"AutoScalingGroupName":"g","StatusMessage":"Could not launch Spot Instances","EC2InstanceId":"i-1"}}'
)
NODE = (
    b'{"instance_id":"i-1","zone":"z","instance_type":"t","state":"ready","state_rank":1,"incarnation":7,'
    b'"expires_at":9,'
    b'"timeline":{"ready@agent":{"step":"ready","source":"agent","at_ms":5}}}'
)
STREAM = (
    b'{"stream":"s","epoch_number":1,"epoch_owner":"o","seq":3,"status":"orphaned","object_key":"k","start":0,'
    b'"length":9,'
    b'"digest":"d","expires_at":9}'
)
OPEN_STREAMS = (
    b'{"instance_id":"i-1","incarnation":7,"left_out":0,"expires_at":9,"deadline_ms":5,"ended_ms":6,'
    b'"replicas":["i-2=10.0.0.2:8001"],"streams":["aaaaaaaaaaaaaaaaaaaaaaaa 1 - 40 5 0",'
    b'"bbbbbbbbbbbbbbbbbbbbbbbb 2 +0a 40 5 -"]}'
)
KEY_DOCUMENT = (
    b'{"version":1,"pepper":"pppppppppppppppppppppppppppppppp","keys":[{"id":"4f1c09d2a7be","name":"chat","hash":"'
    + b"ab" * 32
    + b'","scopes":["inference","fleet"],"created":"2026-11-30T10:00:00.000Z","expires":"2027-11-30T10:00:00Z",'
    b'"revoked":null,"limits":{"streams":8},"previous":{"hash":"' + b"cd" * 32 + b'","until":"2026-12-01T10:00:00Z"}}]}'
)
CREDENTIALS = (
    b"/v1/models?api%5Fkey=x&a=b\nBearer sk-synkti-4f1c09d2a7be-" + b"0" * 64,
    b"/v1/models\nsk-synkti-4f1c09d2a7be-" + b"0" * 64,
)
OWNERSHIP = (
    b'{"stream":"s","epoch_number":1,"epoch_owner":"o","stream_status":"orphaned","status_rank":1,"seq":3,'
    b'"since_ms":1,"changed_ms":2,"replicas":["i-2=10.0.0.2:8001"],"expires_at":9}'
)
DRAIN = (
    b'{"instance_id":"i","incarnation":1,"why":"w","deadline_ms":5,"expires_at":9,'
    b'"steps":[{"step":"a","at_ms":1,"count":null}]}'
)
CAPACITY = (
    b'{"group":"g","base":1,"failed_at_ms":1,"changed_at_ms":1,"event_id":"e","version":1,"expires_at":9,'
    b'"history":[{"base":1,"at_ms":2,"why":"w"}]}'
)
GAVE_UP = (
    b'{"id":"e","detail-type":"Synkti Node Gave Up","time":"2026-11-30T10:00:00Z",'
    b'"detail":{"AutoScalingGroupName":"g","EC2InstanceId":"i-1","Reason":"r"}}'
)
BREAKER = (
    b'{"group":"g","fleet_version":"v","opened_at_ms":1,"event_id":"e","version":1,"expires_at":9,'
    b'"give_ups":[{"instance_id":"i-1","at_ms":1,"reason":"r"}]}'
)
CHUNK = b'data: {"id":"e","choices":[{"index":0,"text":"a","finish_reason":null,"token_ids":[7]}]}\n\ndata: [DONE]\n\n'
DELTA = (
    b'data: {"id":"e","choices":[{"index":0,"delta":{"role":"assistant","content":"a"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1}}\n\n'
)
RESPONSE = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed"}\n\n'
)
MESSAGE = b'event: message_delta\ndata: {"delta":{"stop_reason":"end_turn"}}\n\nevent: message_stop\ndata: {}\n\n'
IDS = b"event: synkti-ids\ndata: [1,2]\n\n"
CONFIG_JSON = (
    b'{"model_type":"llama","hidden_size":8,"num_hidden_layers":2,"num_attention_heads":2,"intermediate_size":8,'
    b'"vocab_size":9,"max_position_embeddings":64,"torch_dtype":"bfloat16","rope_scaling":{"type":"yarn","factor":2.0}}'
)
ENGINE_OUTPUT = b"(EngineCore pid=1) ERROR 11-30 [core.py:1] ValueError: no\nvllm serve: error: unknown argument\n"
SAFETENSORS = b"\x40" + bytes(7) + b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}'.ljust(64) + b"xx"
ENVIRON = b"SYNKTI_MODEL_NAME=m\nSYNKTI_MODEL_DIR=/m\nSYNKTI_PEER_PORT=1"
TOML = b'cluster = "a"\nnodes = 3\ninstance_types = ["g5.xlarge"]\n'
METRICS = (
    b'vllm:num_requests_running{engine="0"} 1.0\nvllm:num_requests_waiting{engine="0"} 0.0\n'
    b'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:num_preemptions_total{engine="0"} 3\n'
)
ALIVE = b"\x01\x05peerslmylife\0\0\0\1\0\0\0\1\x02\x00\x0fpeersl\0\0\0\0\0\0\0\5\1"
KEY_USAGE = b"\x01\x05peerslmylife\0\0\0\1\0\0\0\1\x08\x00\x22peersl\0\0\0\1" + bytes(24)
REFUSALS = (RequestRejected, PassThroughRequest)

TARGETS: dict[str, Target] = {
    "addresses": Target(_text(read_node_address), (b"10.0.0.1:8001", b"[::1]:8001", b"name:1")),
    "host-port": Target(_text(parse_address), (b"10.0.0.1:8001", b"localhost:80")),
    "tags": Target(_tags, (b'[{"Key":"SynktiCluster","Value":"s"},{"Key":"SynktiRole","Value":"worker"}]',), ()),
    "instants": Target(_text(parse_instant), (b"2026-11-23T10:00:00Z", b"2026-11-23T10:00:00.123+02:00")),
    "instance-action": Target(_text(parse_instance_action), (b'{"action":"stop","time":"2026-11-23T10:00:00Z"}',)),
    "rebalance": Target(_text(parse_rebalance), (b'{"noticeTime":"2026-11-23T10:00:00Z"}',)),
    "events-of-ec2": Target(_item(parse_event), (EVENT,)),
    "events-of-groups": Target(_item(parse_launch), (LAUNCH,)),
    "node-records": Target(_item(record_from_item), (NODE,)),
    "stream-records": Target(_item(stream_record_from_item), (STREAM,)),
    "key-document": Target(_key_document, (KEY_DOCUMENT,)),
    "credentials": Target(_credentials, CREDENTIALS, (RequestRejected,)),
    "open-streams": Target(_item(open_streams_from_item), (OPEN_STREAMS,)),
    "ownership-records": Target(_item(ownership_from_item), (OWNERSHIP,)),
    "drain-records": Target(
        _item(drain_from_item),
        (DRAIN,),
    ),
    "capacity-records": Target(
        _item(capacity_from_item),
        (CAPACITY,),
    ),
    "events-of-nodes": Target(_item(parse_breaker_event), (GAVE_UP, LAUNCH)),
    "breaker-records": Target(_item(breaker_from_item), (BREAKER,)),
    "manifests": Target(_text(parse_manifest), (b"%b 12 a/b.safetensors\n" % (b"0" * 64),)),
    "metrics": Target(parse_metrics, (METRICS,), ()),
    "model-cards": Target(read_cards, (b'{"data":[{"id":"m","max_model_len":4096}]}',), ()),
    "engine-errors": Target(
        lambda data: read_error(data, has_model=True), (b'{"error":{"message":"x","code":400,"param":"model"}}',), ()
    ),
    "losses": Target(_text(parse_loss), (b"handoff to i-1", b"engine-died 3 alone", b"engine-killed 3 beside"), ()),
    "loads": Target(load_from_header, (b"1 2 0.500 0.010000 5.0",)),
    "membership": Target(_membership, (ALIVE, KEY_USAGE), ()),
    "key-usages": Target(lambda data: list(read_key_usage(data)), (bytes(48),), ()),
    "engine-usages": Target(read_usage, (b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}',), ()),
    "journal-frames": Target(_journal, (b"\x01\0\0\0\1\0\0\0\1\0\0\0\3abc", b"\0\0\0\x10" + bytes(16)), (BadFrame,)),
    "journal-openings": Target(_open, (b'{"stream":"s","epoch":[1,"o"],"client":""}\n{}\n0 1 a\n',)),
    "openings": Target(parse_stream_header, (OPENING,)),
    "durability": Target(is_durable, (OPENING,), ()),
    "plain-lines": Target(parse_token_records, (b"0 17 text\n0 18 x y\n",)),
    "lines": Target(lambda data: list(read_records(data)), (b"0 17 text\n", b'[0,1,[5],"text",0,null]\n')),
    "sse": Target(_sse, (b": c\n\nid: s/1\ndata: {}\n\n", b"event: x\r\ndata: [DONE]\r\n\r\n"), (EventTooLarge,)),
    "engine-chats": Target(_engine_stream(ApiRoute.CHAT), (DELTA, IDS), ()),
    "engine-completions": Target(_engine_stream(ApiRoute.COMPLETION), (CHUNK, IDS), ()),
    "engine-responses": Target(_engine_stream(ApiRoute.RESPONSES), (RESPONSE, IDS), ()),
    "engine-messages": Target(_engine_stream(ApiRoute.MESSAGES), (MESSAGE, IDS), ()),
    "engine-steps": Target(_steps, (bytes(8),), ()),
    "engine-output": Target(_text(lambda text: last_words(text, 1)), (ENGINE_OUTPUT,), ()),
    "engine-options": Target(_text(lambda text: read_options(text.split())), (b"--dtype half --max-model-len 8k",)),
    "model-configs": Target(_model_config, (CONFIG_JSON,)),
    "clients-streams": Target(lambda data: ResumableSse("s").feed(data), (b"id: s/1\ndata: {}\n\n", CHUNK, MESSAGE)),
    "node-lists": Target(_node_list, (b'{"nodes":[{"front":"10.0.0.1:8000","model":"m"}]}',), ()),
    "event-ids": Target(_text(parse_event_id), (b"a" * 24 + b"/7", b"a" * 24 + b"/7/2-i-1")),
    "chat-bodies": Target(_generation(ApiRoute.CHAT), (CHAT,), REFUSALS),
    "completion-bodies": Target(_generation(ApiRoute.COMPLETION), (PLAIN,), REFUSALS),
    "policies": Target(_policy, (CHAT, PLAIN, SCHEMA_BODY, PARTS_BODY), (RequestRejected,)),
    "forms": Target(_form, (FORM,), (RequestRejected,)),
    "patterns": Target(_text(pattern_defect), (b"^(?:a{1,3}|[^]b]+)*$",), ()),
    "settings": Target(_environ, (ENVIRON,), (ConfigurationError,)),
    "synkti-toml": Target(_toml, (TOML,), (ConfigurationError,)),
    "notes": Target(_notes, (b'[["psm_a",12]]',), ()),
    "stamps": Target(_stamp, (b"v3 1000 0a1b2c3d i-a i/r nonce 00",), ()),
    "launcher-requests": Target(parse_request, (b'{"argv": ["vllm", "serve"], "environ": {"A": "1"}}\n',)),
    "launcher-stops": Target(parse_stop, (b"stop 1.500\n",)),
    "launcher-reports": Target(parse_report, (b"started 4711\n", b"ended -9\n", b"refused No such file\n")),
    "peers-clocks": Target(
        lambda data: read_clock(cluster_key(KEY), data.decode("latin-1"), "n"), (b"v3 1000 d1 00",), ()
    ),
    "kv-headers": Target(read_header, (bytes(200),)),
    "kv-indexes": Target(parse_index, (b'{"fingerprint":"00","names":[],"sizes":[],"object":""}',)),
    "kv-names": Target(parse_names, (b'["%b.kv"]' % (b"0" * 64),)),
    "safetensors": Target(
        _safetensors, (SAFETENSORS,), (Unreadable,)
    ),
    "gguf": Target(min_size, (b"GGUF\3\0\0\0" + bytes(16),), (Unreadable,)),
    "door": Target(
        _http_server,
        (
            b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}",
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\na: b\r\n\r\n",
        ),
        (),
    ),
}  # fmt: skip

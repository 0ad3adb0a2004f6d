"""All rules together: what an engine receives of a request."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.client_requests import GUARDED_FIELDS
from node_agent.contract.errors import RequestRejected
from node_agent.core.common.cluster_keys import ClusterKeys, parse_cluster_keys
from node_agent.core.continuation.method import ContinuationMethod
from node_agent.core.continuation.requests import reprompt_body, resume_body
from node_agent.core.journal.token_history import TokenHistory
from node_agent.core.kv.blocks import chain_root
from node_agent.core.openai.generation_request import ApiRoute, parse_generation
from node_agent.core.openai.request_body import Body
from node_agent.core.policy.cache_salt import CacheSalt, SaltMode
from node_agent.core.policy.fields import PASSED, TAKES_SALT
from node_agent.core.policy.form import FormField, form_boundary, read_form, write_form
from node_agent.core.policy.request_policy import PolicySettings, RequestPolicy

CHAT, AUDIO = "/v1/chat/completions", "/v1/audio/transcriptions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
PER_KEY = PolicySettings(cache_salt=SaltMode.PER_KEY)
SECRET = b"the cluster's key"


def salt_of(key_id: str, secret: bytes = SECRET, **fields: Any) -> str:
    settings = PolicySettings(cache_salt=SaltMode.PER_KEY, allowed_fields=("cache_salt",))
    policy = RequestPolicy(settings, secret=lambda: secret)
    return str(policy.apply(CHAT, {**BODY, **fields}, 100, None, key_id)["cache_salt"])


def history() -> TokenHistory:
    """Return the history of an answer of one token."""
    made = TokenHistory()
    made.prompt_ids = (1, 2)
    made.append([3], "x")
    return made


def test_a_usual_request_is_the_same_object() -> None:
    assert RequestPolicy().apply(CHAT, BODY, 100, None) is BODY


def test_each_key_has_a_salt_of_its_own_that_all_nodes_derive() -> None:
    assert salt_of("a") == salt_of("a")
    assert len({salt_of("a"), salt_of("b"), salt_of(""), salt_of("a", b"another cluster")}) == 4
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", salt_of("a")), "vLLM takes 128 characters, without @, / and backslash"


def test_a_salt_follows_the_current_cluster_key_alone_through_a_rotation() -> None:
    """A node that was started in any step of it derives what all others do."""
    keys = ClusterKeys(parse_cluster_keys(b"first"))
    salt = CacheSalt(lambda: keys.current.secret)
    first = salt.of("a")
    rotation = parse_cluster_keys(b"first").begin(b"second")
    keys.replace(rotation)
    assert salt.of("a") == first
    for step in (rotation.promote(), rotation.promote().finish()):
        keys.replace(step)
        assert salt.of("a") == CacheSalt(lambda: b"second").of("a") != first


def test_a_salt_of_the_client_divides_its_own_cache_and_opens_no_other() -> None:
    assert len({salt_of("a"), salt_of("a", cache_salt="x"), salt_of("b", cache_salt="x"), "x"}) == 4
    assert CacheSalt(lambda: SECRET).of("a", "bc") != CacheSalt(lambda: SECRET).of("ab", "c")
    with pytest.raises(RequestRejected, match="cache_salt is a text"):
        salt_of("a", cache_salt=5)


@pytest.mark.parametrize("choice", [0, 1])
def test_a_salt_stays_the_same_where_an_answer_is_continued(choice: int) -> None:
    """The next entry reads the request from the journal: another key of the cluster there changes nothing."""
    sent = {"model": "m", "prompt": "a", "n": 2, "temperature": 1, "max_tokens": 9, "stream": True}
    body = RequestPolicy(PER_KEY, secret=lambda: SECRET).apply("/v1/completions", sent, 100, None, "a")
    generation = parse_generation(ApiRoute.COMPLETION, Body(body))
    requests = (
        generation.engine_body(),
        reprompt_body(generation, choice, history()),
        resume_body(generation, choice, history(), ContinuationMethod.RESUME, per_token=False),
    )
    assert {json.loads(request)["cache_salt"] for request in requests} == {body["cache_salt"]}


def test_moved_blocks_of_different_keys_have_different_names() -> None:
    assert len({chain_root(b"engine", salt_of("a")), chain_root(b"engine", salt_of("b")), chain_root(b"engine")}) == 3


def test_without_the_setting_no_request_has_a_salt() -> None:
    assert "cache_salt" not in RequestPolicy(secret=lambda: SECRET).apply(CHAT, BODY, 100, None, "a")


@pytest.mark.parametrize("path", sorted(PASSED))
def test_routes_with_a_cache_get_a_salt_and_the_others_none(path: str) -> None:
    body = RequestPolicy(PER_KEY, secret=lambda: SECRET).apply(path, {"model": "m"}, 100, None, "a")
    assert ("cache_salt" in body) is (path in TAKES_SALT)


@pytest.mark.parametrize("kind", ["mcp", "code_interpreter", "web_search", "web_search_preview_2025_03_11"])
def test_tools_that_the_engines_server_calls_need_permission(kind: str) -> None:
    body = {"model": "m", "input": "a", "tools": [{"type": kind}]}
    with pytest.raises(RequestRejected, match=r"SYNKTI_ALLOWED_FIELDS=tools\."):
        RequestPolicy().apply("/v1/responses", body, 100, None)
    names = tuple(name for name in GUARDED_FIELDS if name.startswith("tools."))
    assert RequestPolicy(PolicySettings(allowed_fields=names)).apply("/v1/responses", body, 100, None) is body


def test_urls_in_lists_are_checked() -> None:
    for path, body in (("/v2/embed", {"images": ["http://10.0.0.1/"]}), ("/v1/systemone", {"videos": ["file:///x"]})):
        with pytest.raises(RequestRejected, match="media"):
            RequestPolicy().apply(path, {"model": "m", **body}, 100, None)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from(sorted(set().union(*PASSED.values(), GUARDED_FIELDS, ("unknown", "type", "content", "url"))))


@given(st.sampled_from(sorted(PASSED)), st.dictionaries(_NAMES, _JSON, max_size=6))
def test_any_body_passes_or_is_refused_in_words(path: str, body: dict[str, Any]) -> None:
    try:
        received = RequestPolicy(PER_KEY, secret=lambda: SECRET).apply(path, body, 10**7, 4_096, "a")
    except RequestRejected:
        return
    assert set(received) <= PASSED[path] | {"cache_salt"}


# forms

TYPE = b"multipart/form-data; boundary=xyz"
WAV = FormField("file", b"RIFF\r\n--xy\r\n", b"a.wav", b"audio/wav")


def form(*fields: FormField) -> bytes:
    return write_form(list(fields), b"xyz")


def test_a_form_is_written_anew_with_the_fields_that_pass() -> None:
    sent = form(WAV, FormField("model", b"m"), FormField("unknown", b"x"), FormField("n", b"2"))
    received = RequestPolicy().apply_form(AUDIO, sent, TYPE)
    assert read_form(received, b"xyz") == [WAV, FormField("model", b"m"), FormField("n", b"2")]


@pytest.mark.parametrize("name", ["vllm_xargs", "use_beam_search"])
def test_a_guarded_field_of_a_form_is_refused(name: str) -> None:
    with pytest.raises(RequestRejected) as refused:
        RequestPolicy().apply_form(AUDIO, form(WAV, FormField(name, b"true")), TYPE)
    assert refused.value.param == name


def test_the_bounds_hold_for_forms() -> None:
    with pytest.raises(RequestRejected, match="SYNKTI_MAX_CHOICES"):
        RequestPolicy().apply_form(AUDIO, form(WAV, FormField("n", b"5000")), TYPE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x" + form(WAV),
        form(WAV)[:-4],
        form(WAV) + b"x",
        form(WAV, WAV),
        form(*[WAV] * 70),
        b"--xyz\r\n\r\nx\r\n--xyz--",
        b"--xyz\r\ncontent-disposition: form-data\r\n\r\nx\r\n--xyz--",
        b"--xyz\r\n" + 2 * b'content-disposition: form-data; name="n"\r\n' + b"\r\n1\r\n--xyz--",
        b'--xyz\r\ncontent-disposition: form-data; name="a\\"b"\r\n\r\n1\r\n--xyz--',
        b'--xyz\r\ncontent-disposition: form-data; name="n"; filename*=x\r\n\r\n1\r\n--xyz--',
        form(FormField("n", b"1" * 70_000)),
    ],
    ids=lambda body: str(body)[:40],
)
def test_an_ambiguous_form_is_refused(body: bytes) -> None:
    with pytest.raises(RequestRejected) as refused:
        RequestPolicy().apply_form(AUDIO, body, TYPE)
    assert (refused.value.status, refused.value.code) == (400, "invalid_form")


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (TYPE, b"xyz"),
        (b'Multipart/Form-Data;boundary="a b"', None),
        (b'multipart/form-data; boundary="a:b"', b"a:b"),
        (b"multipart/form-data", None),
        (b"application/json", None),
        (b"multipart/form-data; boundary=x; boundary=y", None),
        (b"multipart/form-data; boundary=" + b"x" * 71, None),
        (b"", None),
    ],
)
def test_the_boundary_of_a_form(content_type: bytes, boundary: bytes | None) -> None:
    assert form_boundary(content_type) == boundary


def test_a_body_that_is_no_form_does_not_reach_the_engine() -> None:
    assert RequestPolicy().apply_form(AUDIO, b"anything", b"text/plain") == b""


@given(st.binary(max_size=80))
def test_any_form_is_read_or_refused(body: bytes) -> None:
    for sent in (body, b"--xyz\r\n" + body + b"\r\n--xyz--"):
        with contextlib.suppress(RequestRejected):
            received = RequestPolicy().apply_form(AUDIO, sent, TYPE)
            assert {field.name for field in read_form(received, b"xyz")} <= PASSED[AUDIO]

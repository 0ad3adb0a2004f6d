"""Media in requests: URLs of named domains, data of a bounded size, and the places where a request may hide either."""

from __future__ import annotations

from typing import Any

import pytest

from node_agent.contract.client_requests import is_media_domain
from node_agent.contract.errors import RequestRejected
from node_agent.core.policy.bounds import RequestBounds
from node_agent.core.policy.fields import FieldRules
from node_agent.core.policy.grammars import check_tools
from node_agent.core.policy.media import NO_DOMAIN, MediaRules
from node_agent.core.policy.messages import MessageRules

DOMAIN = "images.example.com"
RULES = MediaRules([DOMAIN, "cdn.example.org"], 1_000)
DATA = "data:image/png;base64,AAAA"


def refusal(rules: MediaRules, url: object) -> str:
    with pytest.raises(RequestRejected) as refused:
        rules.check_url(url, "messages")
    assert (refused.value.status, refused.value.code) == (400, "media_not_allowed")
    return str(refused.value)


@pytest.mark.parametrize(
    "url", [f"https://{DOMAIN}/a.png?b=c#d", f"https://{DOMAIN}", "https://cdn.example.org/~a/%20/@:x"]
)
def test_a_url_of_an_allowed_domain_passes(url: str) -> None:
    assert RULES.check_url(url, "p") == 0
    assert "SYNKTI_ALLOWED_MEDIA_DOMAINS" in refusal(MediaRules(), url)


@pytest.mark.parametrize(
    "url",
    [
        None,
        5,
        ["https://x"],
        "",
        "x",
        f"http://{DOMAIN}/",
        f"HTTP://{DOMAIN}/",
        f"HTTPS://{DOMAIN}/",
        f"//{DOMAIN}/",
        f"ftp://{DOMAIN}/",
        "file:///etc/passwd",
        f"https://user@{DOMAIN}/",
        f"https://{DOMAIN}@10.0.0.1/",
        f"https://{DOMAIN}:8443/",
        f"https://{DOMAIN}:443/",
        f"https://{DOMAIN}./",
        "https://IMAGES.example.com/",
        f"https://x.{DOMAIN}/",
        f"https://{DOMAIN}.evil.example/",
        f"https://evil.example/{DOMAIN}",
        "https:///x",
        f"https://{DOMAIN}\\@10.0.0.1/",
        f"https:\\\\{DOMAIN}/",
        f" https://{DOMAIN}/",
        f"https://{DOMAIN}/ x",
        f"https://{DOMAIN}/\n",
        f"https://{DOMAIN}\t/",
        f"https://{DOMAIN}/é",
        "https://images。example.com/",
        "https://images%2eexample.com/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/",
        "https://localhost/",
        "https://10.0.0.1.nip.io/",
        f"https://{DOMAIN}/" + "a" * 9_000,
        "javascript:x",
        "blob:x",
        "https://",
    ],
    ids=lambda value: str(value)[:50],
)
def test_any_other_url_is_refused(url: object) -> None:
    assert len(refusal(RULES, url)) < 400


def test_data_are_accepted_up_to_a_bound_and_only_where_they_are_allowed() -> None:
    assert RULES.check_url(DATA, "p") == 4
    assert RULES.check_url("DATA:audio/x-wav;codecs=1;base64,AAAA", "p") == 4
    assert "SYNKTI_MAX_DATA_URL_BYTES" in refusal(MediaRules([DOMAIN]), DATA)
    assert "1000 bytes" in refusal(RULES, DATA + "A" * 1_000)


@pytest.mark.parametrize(
    "url", ["data:", "data:,x", "data:text/html;base64,AAAA", "data:image/png,AAAA", "data:image/png;base64,AAAA,AAAA"]
)
def test_other_data_are_refused(url: str) -> None:
    refusal(RULES, url)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        (DOMAIN, True),
        ("example.com", True),
        ("xn--bcher-kva.example", True),
        ("", False),
        ("example", False),
        ("localhost", False),
        ("a.localhost", False),
        ("ip-10-0-0-1.ec2.internal", False),
        ("127.0.0.1", False),
        ("2130706433", False),
        ("0x7f.0x1", False),
        ("[::1]", False),
        ("Example.com", False),
        ("*.example.com", False),
        ("example.com.", False),
        ("example.com:443", False),
        ("a b.example", False),
        ("-a.example", False),
        ("a" * 64 + ".example", False),
        ("a.b", True),
        ("1.example", True),
        ("example.1", False),
    ],
)
def test_a_domain_is_a_name_in_dns(name: str, *, is_one: bool) -> None:
    assert is_media_domain(name) is is_one
    assert is_media_domain(NO_DOMAIN)


def check(value: Any, media: MediaRules | None = None, *allowed: str) -> int:
    bounds = RequestBounds()
    rules = MessageRules(FieldRules(allowed), media or MediaRules())
    return rules.check(value, "messages", lambda tools, param: check_tools(tools, param, bounds))


def user(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


TEXTS: tuple[Any, ...] = (
    "hello",
    None,
    5,
    [],
    [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]},
    ],
    user("a", {"type": "text", "text": "b"}, {"type": "refusal", "refusal": "c"}, {"text": "d"}),
    user({"type": "tool_use", "id": "1", "name": "f", "input": {"image_url": "http://10.0.0.1", "uuid": 1}}),
    user({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "a"}]}),
    user({"type": "thinking", "thinking": "a", "signature": "b"}, {"type": "redacted_thinking", "data": "a"}),
    [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}],
    [{"type": "function_call", "name": "f", "arguments": "{}"}, {"type": "function_call_output", "output": "x"}],
    [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]}, {"type": "item_reference", "id": "1"}],
    [[{"role": "user", "content": "of a batch"}]],
    {"content": [{"type": "text", "text": "of a score"}]},
)


@pytest.mark.parametrize("value", TEXTS, ids=lambda value: str(value)[:60])
def test_texts_and_calls_of_tools_pass(value: Any) -> None:
    assert check(value) == 0


URL = "http://10.0.0.1/"
HIDDEN: tuple[Any, ...] = (
    user({"type": "image_url", "image_url": {"url": URL}}),
    user({"type": "image_url", "image_url": URL}),
    user({"image_url": URL}),
    user({"type": None, "image_url": URL}),
    user({"type": "audio_url", "audio_url": {"url": URL}}),
    user({"type": "video_url", "video_url": {"url": URL}}),
    user({"type": "tool_reference", "video_url": {"url": URL}}),
    user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
    user({"type": "image", "source": {"type": "url", "url": URL}}),
    user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}),
    user({"type": "image", "source": URL}),
    user({"type": "input_image", "image_url": URL}),
    user({"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": URL}}]}),
    user([{"type": "image_url", "image_url": URL}]),
    [{"type": "function_call_output", "output": [{"type": "input_image", "image_url": URL}]}],
    [{"role": "user", "content": {"type": "image_url", "image_url": URL}}],
    [{"role": "user", "image_url": URL}],
    {"content": [{"type": "image_url", "image_url": {"url": URL}}]},
)


@pytest.mark.parametrize("value", HIDDEN, ids=lambda value: str(value)[:80])
def test_a_medium_is_found_wherever_vllm_looks_for_it(value: Any) -> None:
    with pytest.raises(RequestRejected) as refused:
        check(value)
    assert refused.value.code == "media_not_allowed"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_pil", "image_pil": {}},
        {"type": "input_file", "file_data": "x"},
        {"type": "file", "file": {}},
        {"type": "computer_screenshot", "image_url": None},
        {"type": "of tomorrow"},
        {"type": 5},
        {"type": ["text"]},
        {"type": "document", "source": {}},
    ],
    ids=str,
)
def test_parts_that_are_not_known_are_refused(part: dict[str, Any]) -> None:
    with pytest.raises(RequestRejected) as refused:
        check(user(part), MediaRules([DOMAIN], 1_000))
    assert refused.value.code in ("content_not_allowed", "media_not_allowed")


@pytest.mark.parametrize("name", ["image_embeds", "audio_embeds", "video_embeds", "prompt_embeds"])
def test_tensors_need_permission_by_name(name: str) -> None:
    for part in ({"type": name, name: "AAAA"}, {name: {"a": "AAAA"}}, {"type": name, "data": "AAAA"}):
        with pytest.raises(RequestRejected, match=f"SYNKTI_ALLOWED_FIELDS={name}"):
            check(user(part))
        assert check(user(part), None, name) == 0


def test_the_id_of_a_cached_medium_needs_permission() -> None:
    part = {"type": "image_url", "image_url": None, "uuid": "1"}
    with pytest.raises(RequestRejected, match="SYNKTI_ALLOWED_FIELDS=uuid"):
        check(user(part))
    assert check(user(part), None, "uuid") == 0


def test_allowed_media_pass_and_their_data_are_counted() -> None:
    parts = (
        {"type": "image_url", "image_url": {"url": f"https://{DOMAIN}/a.png", "detail": "auto"}},
        {"type": "image_url", "image_url": {"url": DATA}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
    )
    assert check(user(*parts), RULES) == 12


@pytest.mark.parametrize(
    "source",
    [
        {"data": "AAAA", "format": "wav;base64,x"},
        {"type": "base64", "media_type": "text/html", "data": "AAAA"},
        {"type": "base64", "media_type": "image/png;base64,AAAA", "data": "AAAA"},
        {"data": "AAAA,AAAA"},
        {"data": None},
        {"type": "base64", "media_type": 5, "data": "AAAA"},
        {"type": "url", "url": 5},
        "x",
    ],
    ids=str,
)
def test_a_source_whose_parts_would_make_another_url_is_refused(source: Any) -> None:
    with pytest.raises(RequestRejected):
        check(user({"type": "image", "source": source}), RULES)


def test_unknown_keys_of_a_text_do_not_reach_the_template() -> None:
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}, "uuid": "1", "image_url": URL}
    check(user(part))
    assert part == {"type": "text", "text": "a"}


def test_tools_in_messages_are_checked() -> None:
    addition = {
        "type": "tool_addition",
        "tool": {"type": "tool_definition", "definition": {"input_schema": {"$ref": "#"}}},
    }
    developer = {"role": "developer", "content": "a", "tools": [{"function": {"parameters": {"$ref": "#"}}}]}
    for value in ([{"role": "system", "content": [addition]}], [developer]):
        with pytest.raises(RequestRejected, match="itself"):
            check(value)


def test_deep_contents_cost_no_recursion() -> None:
    value: Any = "a"
    for _ in range(5_000):
        value = [{"content": value}]
    assert check(value) == 0

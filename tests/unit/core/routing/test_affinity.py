"""Test the keys of requests' beginnings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.routing.affinity import MAX_BYTES, conversation_key, prompt_key, session_key

SYSTEM = {"role": "system", "content": "You are terse. " * 200}


def turns(*texts: str) -> list[object]:
    roles = ["user", "assistant"]
    return [SYSTEM, *({"role": roles[n % 2], "content": text} for n, text in enumerate(texts))]


def test_all_turns_of_a_conversation_have_the_same_key_and_others_have_another() -> None:
    first = conversation_key(turns("hello"))
    assert first is not None
    assert conversation_key(turns("hello", "Hi.", "more")) == first
    assert conversation_key(turns("hello", "Another answer.", "more", "x", "y")) == first
    assert conversation_key(turns("good day")) != first
    assert conversation_key(turns("hello")[1:]) != first


def test_late_content_and_content_without_text_do_not_change_the_key() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:" + "x" * 5_000_000}}
    other = {"type": "image_url", "image_url": {"url": "data:" + "x" * 5_000_001}}
    key = conversation_key([{"role": "user", "content": [{"type": "text", "text": "what is this?"}, image]}])
    assert key is not None
    assert key != conversation_key([{"role": "user", "content": [{"type": "text", "text": "what is this?"}, other]}])
    long = "y" * (2 * MAX_BYTES)
    assert prompt_key(long) == prompt_key(long + "z")
    assert prompt_key("a") != prompt_key("b")


def test_prompts_of_every_form_have_keys() -> None:
    assert prompt_key("text") == prompt_key(["text", "and another"])
    assert prompt_key([1, 2, 3]) == prompt_key([[1, 2, 3], [4]])
    assert prompt_key([1, 2, 3]) != prompt_key([1, 23])
    assert session_key("s") != prompt_key("s")
    assert session_key("") is prompt_key("") is prompt_key([]) is prompt_key(None) is conversation_key("x") is None


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JUNK)
def test_every_body_has_a_key_or_none(body: object) -> None:
    for key in (conversation_key(body), prompt_key(body), conversation_key([{"role": "user", "content": body}])):
        assert key is None or 0 <= key < 2**64

"""The stand-in's model: deterministic, continuable at every whole character, and trapped inside one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.fake_engine import model
from local.fake_engine.answers import BadRequest, Sampling, answer, read_prompts, read_sampling, steps


@given(st.text(max_size=60))
def test_every_text_survives_its_ids(text: str) -> None:
    assert model.decode(model.encode(text)) == text


@given(st.text(min_size=1, max_size=20), st.integers(0, 500), st.booleans())
def test_an_answer_goes_on_exactly_from_any_whole_character(prompt_text: str, cut: int, ignore_eos: bool) -> None:
    prompt = model.completion_prompt(prompt_text)
    whole = answer(prompt, Sampling(max_tokens=300, ignore_eos=ignore_eos))
    cut = min(cut, len(whole.ids) - 1)
    before = model.decode(whole.ids[:cut])
    rest = answer([*prompt, *whole.ids[:cut]], Sampling(max_tokens=300 - cut, ignore_eos=ignore_eos))
    assert rest.ids == whole.ids[cut:]
    if before.endswith("\ufffd"):
        assert rest.text.startswith(prompt_text)  # vLLM's trap
    else:
        assert before + rest.text == whole.text


def test_a_character_of_several_tokens_is_sent_with_its_last() -> None:
    prompt = model.completion_prompt("emoji")
    for step, previous in zip(list(steps(prompt, Sampling(), 4096))[1:], steps(prompt, Sampling(), 4096), strict=False):
        assert "\ufffd" not in step.text + previous.text


@given(st.sampled_from(["the", "day", "日", "🌍🎉", "one\n2"]), st.booleans())
def test_a_stop_string_ends_the_answer_in_front_of_it(stop: str, include: bool) -> None:
    for topic in range(30):
        prompt = model.completion_prompt(f"topic {topic}")
        whole = answer(prompt, Sampling())
        stopped = answer(prompt, Sampling(stop=(stop,), include_stop=include))
        expected, found, _ = whole.text.partition(stop)
        assert stopped.text == expected + (found if include else "")
        assert stopped.finish_reason == "stop"


def test_text_is_held_back_while_a_stop_string_may_form() -> None:
    prompt = model.completion_prompt("x")
    free = [step.text for step in steps(prompt, Sampling(), 4096)]
    held = [step.text for step in steps(prompt, Sampling(stop=("\x00" * 5,)), 4096)]
    assert "".join(free) == "".join(held)
    assert all(len("".join(held[:n])) <= max(0, len("".join(free[:n])) - 4) for n in range(1, len(free)))


def test_limits() -> None:
    prompt = model.completion_prompt("x")
    assert len(answer(prompt, Sampling(max_tokens=5)).ids) == 5
    assert answer(prompt, Sampling(max_tokens=5)).finish_reason == "length"
    natural = answer(prompt, Sampling())
    assert natural.ids[-1] == model.EOS
    assert len(answer(prompt, Sampling(max_tokens=900, ignore_eos=True)).ids) == 900
    assert len(answer(prompt, Sampling(max_tokens=900, min_tokens=len(natural.ids) + 9)).ids) > len(natural.ids)
    assert len(answer(prompt, Sampling(), max_model_len=40).ids) + len(prompt) == 40


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2, "min_tokens": 3}, "min_tokens"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, 999_999]}, "prompt"),
        ({"prompt": ["a", 3]}, "prompt"),
        ({"prompt": "x" * 5_000}, "prompt"),
    ],
)
def test_bad_requests_name_their_field(body: dict[str, object], param: str) -> None:
    def read() -> None:
        read_prompts({"prompt": "x", **body}, chat=False, max_model_len=4096)
        read_sampling(body, chat=False)

    with pytest.raises(BadRequest) as caught:
        read()
    assert caught.value.param == param

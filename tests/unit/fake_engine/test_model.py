"""The fake engine's model: deterministic, continuable at every whole character, and trapped inside one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.fake_engine import model
from local.fake_engine.answers import BadRequest, SamplingParams, generate, generate_steps, read_prompts, read_sampling
from local.tiny_model import read_stories


@given(st.text(max_size=60))
def test_every_text_round_trips_through_its_ids(text: str) -> None:
    assert model.decode(model.encode(text)) == text


@given(st.text(min_size=1, max_size=20), st.integers(0, 500), st.booleans())
def test_an_answer_continues_exactly_from_any_whole_character(prompt_text: str, cut: int, ignore_eos: bool) -> None:
    prompt = model.completion_prompt(prompt_text)
    whole = generate(prompt, SamplingParams(max_tokens=300, ignore_eos=ignore_eos))
    cut = min(cut, len(whole.token_ids) - 1)
    before = model.decode(whole.token_ids[:cut])
    rest = generate([*prompt, *whole.token_ids[:cut]], SamplingParams(max_tokens=300 - cut, ignore_eos=ignore_eos))
    assert rest.token_ids == whole.token_ids[cut:]
    if before.endswith("\ufffd"):
        assert rest.text.startswith(prompt_text)  # vLLM's trap
    else:
        assert before + rest.text == whole.text


def test_a_character_of_several_tokens_is_sent_with_its_last() -> None:
    steps = list(generate_steps(model.completion_prompt("emoji"), SamplingParams(), 4096))
    data, sent = b"", ""
    for step in steps:
        data += model.token_bytes(step.token)
        sent += step.text
        assert sent == data.decode(errors="ignore")  # the complete characters, and none of an incomplete one
    assert "" in [step.text for step in steps[:-1]]
    assert any(len(character.encode()) == 4 for character in sent)


@given(st.sampled_from(["the", "day", "日", "🌍🎉", "one\n2"]), st.booleans())
def test_a_stop_string_ends_the_answer_before_it(stop: str, include: bool) -> None:
    for topic in range(30):
        prompt = model.completion_prompt(f"topic {topic}")
        whole = generate(prompt, SamplingParams())
        stopped = generate(prompt, SamplingParams(stop=(stop,), include_stop=include))
        expected, found, _ = whole.text.partition(stop)
        assert stopped.text == expected + (found if include else "")
        assert stopped.finish_reason == "stop"


def test_text_is_held_back_while_a_stop_string_may_form() -> None:
    prompt = model.completion_prompt("x")
    free = [step.text for step in generate_steps(prompt, SamplingParams(), 4096)]
    held = [step.text for step in generate_steps(prompt, SamplingParams(stop=("\x00" * 5,)), 4096)]
    assert len("".join(free)) > 4
    assert "".join(free) == "".join(held)
    assert all(len("".join(held[:n])) <= max(0, len("".join(free[:n])) - 4) for n in range(1, len(free)))


def test_max_tokens_and_context_limit_the_answer() -> None:
    prompt = model.completion_prompt("x")
    assert len(generate(prompt, SamplingParams(max_tokens=5)).token_ids) == 5
    assert generate(prompt, SamplingParams(max_tokens=5)).finish_reason == "length"
    natural = generate(prompt, SamplingParams())
    assert natural.token_ids[-1] == model.EOS
    assert len(generate(prompt, SamplingParams(max_tokens=900, ignore_eos=True)).token_ids) == 900
    assert len(generate(prompt, SamplingParams(max_tokens=900, min_tokens=len(natural.token_ids) + 9)).token_ids) > len(
        natural.token_ids
    )
    assert len(generate(prompt, SamplingParams(), max_model_len=40).token_ids) + len(prompt) == 40


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


def test_a_question_in_english_has_an_answer_in_english_and_other_prompts_have_many_scripts() -> None:
    def answer(text: str) -> str:
        return generate(model.chat_prompt([{"role": "user", "content": text}]), SamplingParams()).text

    assert answer("Tell me a story about a night train.").startswith("The night train left the harbour")
    assert answer("Tell me a story about a lighthouse.").startswith("On the northern cape")
    assert answer("hello") in read_stories()
    topics = "".join(answer(f"topic {number}") for number in range(5))
    assert any(len(character.encode()) == 4 for character in topics), "characters of several tokens"

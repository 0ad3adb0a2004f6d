"""Values of the fake engine: in vLLM's shapes, and the same wherever an answer continues."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from local.fake_engine import model
from local.fake_engine.logprobs import Scorer, chat_logprobs, completion_logprobs


@given(st.text(min_size=1, max_size=40), st.integers(0, 20), st.data())
def test_the_values_of_an_answer_do_not_depend_on_where_it_was_cut(text: str, count: int, data: st.DataObject) -> None:
    ids = model.encode(text)
    whole = Scorer(7, count)
    scored = [whole.score(token) for token in ids]
    cut = data.draw(st.integers(0, len(ids)))
    rest = Scorer(7 + cut, count)
    assert [rest.score(token).logprob for token in ids[cut:]] == [each.logprob for each in scored[cut:]]
    assert "".join(each.text for each in scored) == text
    assert all(each.logprob is not None and each.logprob < 0 for each in scored)


def test_a_character_of_several_tokens_is_the_last_ones() -> None:
    scorer = Scorer(1, 0)
    assert [scorer.score(token).text for token in model.encode("é x日")] == ["", "é", " ", "x", "", "", "日"]
    assert scorer.score(model.EOS).text == "<eos>"


def test_a_chats_shape() -> None:
    scorer = Scorer(3, 2)
    content = chat_logprobs([scorer.score(token) for token in model.encode("é")], 2)["content"]
    assert [entry["token"] for entry in content] == ["", "é"]
    assert [entry["bytes"] for entry in content] == [[], list("é".encode())]
    for entry in content:
        top = entry["top_logprobs"]
        assert len(top) == 2
        assert top[0] == {key: entry[key] for key in ("token", "logprob", "bytes")}
        assert top[0]["logprob"] > top[1]["logprob"]
    assert chat_logprobs([Scorer(3, 0).score(65)], 0)["content"][0]["top_logprobs"] == []


def test_a_completions_shape() -> None:
    scorer = Scorer(3, 5)
    scored = [scorer.score(token) for token in model.encode("né the")]
    logprobs = completion_logprobs(scored, 10)
    assert logprobs["tokens"] == ["n", "", "é", " the"]
    assert logprobs["text_offset"] == [10, 11, 11, 12]
    assert logprobs["token_logprobs"] == [each.logprob for each in scored]
    assert [len(top) for top in logprobs["top_logprobs"]] == [5] * 4
    only_itself = completion_logprobs([Scorer(3, 0).score(65)], 0)["top_logprobs"]
    assert [list(top) for top in only_itself] == [["A"]]


def test_a_prompts_tokens_are_followed_by_the_likeliest_and_its_first_has_no_values() -> None:
    scorer = Scorer(0, 2)
    logprobs = completion_logprobs([scorer.score(token, of_prompt=True) for token in (65, 66)], 0)
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert len(logprobs["top_logprobs"][1]) == 3

"""The plug-in on a real vLLM: arguments that would crash an engine are rejected, and resumed answers are exact."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from node_agent.adapters.http import HttpClient
from node_agent.core.common.address import parse_address
from node_agent.core.continuation import self_test
from node_agent.core.continuation.method import ContinuationMethod
from node_agent.runtime.engine.self_test import supported_methods
from tests.contract.conftest import CHUNK
from tests.engines import MODEL, Engine

pytestmark = [pytest.mark.vllm, pytest.mark.parametrize("plugged", ["plain"], indirect=True)]
SEEDED: dict[str, Any] = {"temperature": 1.2, "seed": 5, "ignore_eos": True}
ARGUMENTS = ("synkti_resume_ids", "synkti_forced_ids")


def complete(
    engine: Engine, max_tokens: int, prompt: str | list[int] = "It was a dark night", **fields: Any
) -> httpx.Response:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "return_token_ids": True, **fields}
    return httpx.post(f"{engine.url}/v1/completions", json=body, timeout=120)


def choice(engine: Engine, max_tokens: int, **fields: Any) -> dict[str, Any]:
    response = complete(engine, max_tokens, **fields)
    assert response.status_code == 200, response.text
    first: dict[str, Any] = response.json()["choices"][0]
    return first


def resuming(ids: Sequence[int], argument: str = "synkti_resume_ids") -> dict[str, Any]:
    return {"vllm_xargs": {argument: list(ids)}}


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize(
    ("ids", "fields", "why"),
    [
        ([399], {}, "not in the vocabulary"),
        ([10**9], {}, "not in the vocabulary"),
        ([-1], {}, "must be a list of token ids"),
        (["a"], {}, "must be a list of token ids"),
        ([1.5], {}, "must be a list of token ids"),
        ([5] * 21, {}, "are more than max_tokens"),
        ([5], {"n": 2, "temperature": 1}, "one choice is continued at a time"),
    ],
)
def test_invalid_plugin_arguments_get_a_400_and_the_engine_keeps_running(
    plugged: Engine, argument: str, ids: list[Any], fields: dict[str, Any], why: str
) -> None:
    response = complete(plugged, 20, **fields, **resuming(ids, argument))
    assert response.status_code == 400
    assert why in response.text
    assert httpx.get(f"{plugged.url}/health", timeout=10).status_code == 200
    assert choice(plugged, 4)["finish_reason"] == "length"


def test_a_finished_answer_resumed_after_all_its_ids_ends_at_the_same_token(plugged: Engine) -> None:
    whole = choice(plugged, 2000, prompt="count", temperature=0)
    if whole["finish_reason"] != "stop":
        whole = choice(plugged, 2000, prompt="count", temperature=0, stop_token_ids=[whole["token_ids"][40]])
    fields = {"stop_token_ids": [whole["token_ids"][-1]]}
    again = choice(plugged, 2000, prompt="count", temperature=0, **fields, **resuming(whole["token_ids"]))
    assert again["token_ids"] == whole["token_ids"]
    assert again["finish_reason"] == "stop"


def test_ids_rejected_by_the_grammar_fail_only_their_own_request(plugged: Engine) -> None:
    fields: dict[str, Any] = {"structured_outputs": {"regex": "[0-9]{30}"}}
    words = choice(plugged, 4, temperature=0, structured_outputs={"regex": "[a-z]{30}"})["token_ids"]
    response = complete(plugged, 20, temperature=0, **fields, **resuming(words))
    assert response.status_code >= 400 or response.json()["choices"][0]["finish_reason"] not in ("stop", "length")
    assert choice(plugged, 4, temperature=0, **fields)["finish_reason"] == "length"


def test_a_seeded_request_resumes_exactly_after_a_chunked_prefill(plugged: Engine) -> None:
    """A stock engine crashes at this on a CPU, because its generator has no offset that could be moved back."""
    prompt = [5 + at % 300 for at in range(2 * CHUNK + 100)]
    whole = choice(plugged, 24, prompt=prompt, **SEEDED)
    assert len(whole["token_ids"]) == 24
    for cut in (1, 11, 23):
        again = choice(plugged, 24, prompt=prompt, **SEEDED, **resuming(whole["token_ids"][:cut]))
        assert again["token_ids"] == whole["token_ids"]
    assert choice(plugged, 24, prompt=prompt, **{**SEEDED, "seed": 6})["token_ids"] != whole["token_ids"]


def test_more_ids_than_one_prefill_chunk_are_resumed_exactly(plugged: Engine) -> None:
    length = 2 * CHUNK + 60
    whole = choice(plugged, length, frequency_penalty=0.7, **SEEDED)
    again = choice(plugged, length, frequency_penalty=0.7, **SEEDED, **resuming(whole["token_ids"][: length - 20]))
    assert again["token_ids"] == whole["token_ids"]


def test_a_stream_resumes_at_an_engine_that_has_its_blocks_in_the_prefix_cache(plugged: Engine) -> None:
    """Its prefix cache then has more than the prompt, which vLLM assumes impossible for a new request, and crashes."""
    fields = {"prompt": "It was a dark night, and nobody knew it", **SEEDED}
    whole = choice(plugged, 400, **fields)
    for cut in (300, 300, 390):
        assert choice(plugged, 400, **fields, **resuming(whole["token_ids"][:cut]))["token_ids"] == whole["token_ids"]


def test_many_requests_of_every_kind_resume_concurrently(plugged: Engine) -> None:
    kinds: list[dict[str, Any]] = [
        {**SEEDED},
        {"temperature": 0, "frequency_penalty": 1.0},
        {"temperature": 0, "structured_outputs": {"regex": "([a-z]{3} ){40}"}},
        {"temperature": 1.1, "seed": 9, "structured_outputs": {"regex": "([0-9]{2},){40}"}, "presence_penalty": 1.0},
    ]
    jobs = [(kind, cut) for kind in kinds for cut in (1, 7, 30)]
    whole = [choice(plugged, 48, **kind)["token_ids"] for kind in kinds]
    with ThreadPoolExecutor(len(jobs)) as pool:
        resumed = list(
            pool.map(
                lambda job: choice(plugged, 48, **job[0], **resuming(whole[kinds.index(job[0])][: job[1]]))[
                    "token_ids"
                ],
                jobs,
            )
        )
    assert resumed == [whole[kinds.index(kind)] for kind, _ in jobs]


def test_logprobs_of_tokens_after_the_resumed_ids_are_right_and_aligned(plugged: Engine) -> None:
    whole = choice(plugged, 20, logprobs=2, **SEEDED)
    again = choice(plugged, 20, logprobs=2, **SEEDED, **resuming(whole["token_ids"][:8]))
    assert again["logprobs"]["token_logprobs"][8:] == whole["logprobs"]["token_logprobs"][8:]
    assert len(again["logprobs"]["tokens"]) == 20


@pytest.mark.parametrize("method", [ContinuationMethod.RESUME, ContinuationMethod.FORCED_DECODING])
def test_both_plugin_methods_pass_the_self_test(plugged: Engine, method: ContinuationMethod) -> None:
    steps = self_test.probe_steps(MODEL, method)
    body: Any = next(steps)
    while isinstance(body, dict):
        ids = httpx.post(f"{plugged.url}/v1/completions", json=body, timeout=120).json()["choices"][0]["token_ids"]
        try:
            body = steps.send(ids)
        except StopIteration as done:
            body = done.value
    assert body is None


def test_the_agents_self_test_finds_that_the_engine_supports_resume(plugged: Engine) -> None:
    async def run() -> tuple[str, ...]:
        client = HttpClient()
        try:
            return await supported_methods(client, parse_address(plugged.url.removeprefix("http://")), MODEL)
        finally:
            await client.close()

    assert asyncio.run(run()) == (ContinuationMethod.RESUME.value,)

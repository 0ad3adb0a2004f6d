"""Seeded answers, which depend on more than their ids, continue exactly where engines can resume; else they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import uvloop

from local.fake_engine import model as fake_model
from local.fake_engine.answers import SamplingParams, generate
from node_agent.contract.names import EVENT_IDS_HEADER
from node_agent.core.openai.sse import SseParser
from tests.scenarios.local_fleet import MODEL, LocalFleet, local_fleet

TOKENS = 120
SEED = 7
REQUEST: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "a night train"}],
    "stream": True,
    "max_tokens": TOKENS,
    "ignore_eos": True,
    "seed": SEED,
    "temperature": 1.0,
}
RIGHT = generate(fake_model.chat_prompt(REQUEST["messages"]), SamplingParams(TOKENS, ignore_eos=True, seed=SEED))


async def request_and_kill(fleet: LocalFleet, kills: int, **fields: Any) -> tuple[list[dict[str, Any]], bool]:
    """Send a request, kill its engine `kills` times, and return the chunks and whether [DONE] arrived."""
    entry, chunks, done, parser, left = fleet.nodes[0], [], False, SseParser(), kills
    killed: set[str] = set()
    url, headers = f"{entry.url}/v1/chat/completions", {EVENT_IDS_HEADER: "true"}
    async with fleet.http.stream("POST", url, json={**REQUEST, **fields}, headers=headers) as response:
        server = response.headers["x-synkti-node"]
        async for data in response.aiter_bytes():
            for line in data.decode(errors="replace").splitlines():
                if line.startswith(": synkti continued on "):
                    server = line.split()[4]
            for _, event in parser.feed(data):
                done = done or event == b"[DONE]"
                chunks += [] if event == b"[DONE]" else [json.loads(event)]
            if left and len(chunks) > 30 * (kills - left + 1) and server not in killed:
                left -= 1
                killed.add(server)
                fleet.by_id(server).kill_engine()
    return chunks, done


def text(chunks: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk.get("choices", ()))


@pytest.mark.parametrize("kills", [1, 2])
def test_a_seeded_answer_continues_exactly_after_each_lost_engine(tmp_path: Path, kills: int) -> None:
    async def scenario() -> None:
        async with local_fleet(tmp_path, 3, engine_options=("--plugged",)) as fleet:
            nodes = (await fleet.http.get(f"{fleet.nodes[0].url}/v1/synkti/nodes")).json()["nodes"]
            assert {tuple(node["ways"]) for node in nodes} == {("resume",)}
            chunks, done = await request_and_kill(fleet, kills)
            assert text(chunks) == RIGHT.text
            assert done
            figures = (await fleet.http.get(f"{fleet.nodes[0].admin_url}/metrics")).text
            assert f'synkti_continuation_methods_total{{method="resume"}} {float(kills)}' in figures

    uvloop.run(scenario())


def test_a_seeded_answer_without_the_plug_in_ends_with_an_error_that_names_the_seed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local_fleet(tmp_path, 2) as fleet:
            chunks, done = await request_and_kill(fleet, 1)
            assert chunks[-1]["error"]["code"] == "continuation_impossible"
            assert "seed" in chunks[-1]["error"]["message"]
            assert not done
            assert RIGHT.text.startswith(text(chunks))

    uvloop.run(scenario())


def test_a_client_cannot_make_an_engine_resume(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local_fleet(tmp_path, 1, engine_options=("--plugged",), SYNKTI_ALLOWED_FIELDS="vllm_xargs") as fleet:
            url, smuggled = fleet.nodes[0].url, {"vllm_xargs": {"synkti_resume_ids": [65, 66]}}
            chunks, _ = await request_and_kill(fleet, 0, **smuggled)
            assert text(chunks) == RIGHT.text
            whole = await fleet.http.post(f"{url}/v1/chat/completions", json={**REQUEST, "stream": False, **smuggled})
            assert whole.json()["choices"][0]["message"]["content"] == RIGHT.text

    uvloop.run(scenario())

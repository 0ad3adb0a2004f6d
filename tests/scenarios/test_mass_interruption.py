"""Half of a busy fleet gets its notice at once: streams go on, what finds no room waits or hears 429, all is well."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop

from tests.scenarios.local_fleet import LocalFleet, LocalNode, local_fleet
from tests.scenarios.streams import CHAT, PATHS, expected, open_stream, read_until

SIZE = 6
STREAMS = 18
PLACES = "4"
"""What each engine generates at once: the three nodes that stay have room for twelve of the eighteen streams."""


def body(number: int, tokens: int = 400) -> dict[str, Any]:
    return {**CHAT, "max_tokens": tokens, "messages": [{"role": "user", "content": f"story number {number}"}]}


def test_half_the_fleet_at_once_costs_no_stream_and_new_requests_hear_what_is_going_on(tmp_path: Path) -> None:
    async def story(fleet: LocalFleet) -> None:
        going, staying = fleet.nodes[: SIZE // 2], fleet.nodes[SIZE // 2 :]
        begun: list[int] = []
        all_begun = asyncio.Event()

        async def stream(number: int, entry: LocalNode) -> None:
            async with open_stream(fleet, entry, "chat", body(number)) as heard:

                def on_the_way() -> None:
                    begun.append(number)
                    if len(begun) == STREAMS:
                        all_begun.set()

                await read_until(heard, 10, on_the_way)
            assert (heard.error, heard.done) == (None, True), number
            assert heard.text == expected("chat", body(number)).text

        async def ask(number: int) -> int:
            answer = await fleet.http.post(staying[number % len(staying)].url + PATHS["chat"], json=body(number, 20))
            if answer.status_code == 429:
                assert answer.json()["error"]["code"] == "fleet_full"
                assert int(answer.headers["retry-after"]) >= 1
            return answer.status_code

        streams = [asyncio.ensure_future(stream(number, staying[number % len(staying)])) for number in range(STREAMS)]
        await all_begun.wait()
        for node in going:
            node.notice(lead_s=7.0)
        answers = Counter(await asyncio.gather(*(ask(number) for number in range(40))))
        await asyncio.gather(*streams)
        assert set(answers) <= {200, 429}
        assert answers[200] > 0
        for node in going:
            assert node.life is not None
            assert await asyncio.wait_for(node.life, 20) == 0

    async def run() -> None:
        async with local_fleet(
            tmp_path, size=SIZE, seconds_per_token=0.02, engine_options=("--max-num-seqs", PLACES)
        ) as fleet:
            await story(fleet)

    uvloop.run(run())

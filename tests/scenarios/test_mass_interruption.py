"""Half of a busy fleet is interrupted at once: all streams continue, new requests wait for room or get 429."""

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


def test_interrupting_half_the_fleet_loses_no_stream_and_new_requests_get_200_or_429(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        interrupted, staying = fleet.nodes[: SIZE // 2], fleet.nodes[SIZE // 2 :]
        begun: list[int] = []
        all_begun = asyncio.Event()

        async def stream(number: int, entry: LocalNode) -> None:
            async with open_stream(fleet, entry, "chat", body(number)) as reader:

                def begin() -> None:
                    begun.append(number)
                    if len(begun) == STREAMS:
                        all_begun.set()

                await read_until(reader, 10, begin)
            assert (reader.error, reader.done) == (None, True), number
            assert reader.text == expected("chat", body(number)).text

        async def request(number: int) -> int:
            answer = await fleet.http.post(staying[number % len(staying)].url + PATHS["chat"], json=body(number, 20))
            if answer.status_code == 429:
                assert answer.json()["error"]["code"] == "fleet_full"
                assert int(answer.headers["retry-after"]) >= 1
            return answer.status_code

        streams = [asyncio.ensure_future(stream(number, staying[number % len(staying)])) for number in range(STREAMS)]
        await all_begun.wait()
        for node in interrupted:
            node.notice(lead_s=7.0)
        answers = Counter(await asyncio.gather(*(request(number) for number in range(40))))
        await asyncio.gather(*streams)
        assert set(answers) <= {200, 429}
        assert answers[200] > 0
        for node in interrupted:
            assert node.life is not None
            assert await asyncio.wait_for(node.life, 20) == 0

    async def run() -> None:
        async with local_fleet(
            tmp_path, size=SIZE, seconds_per_token=0.02, engine_options=("--max-num-seqs", PLACES)
        ) as fleet:
            await scenario(fleet)

    uvloop.run(run())

"""The relay of an engine's bytes: keep-alives, silences, and the first event after an interruption."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Sequence

from node_agent.ports import ExchangeLost
from node_agent.runtime.engine.keepalive import KEEPALIVE, OVERTAKEN
from tests.unit.runtime.client_api.scripted_engines import ROLE, TOKEN, Engines, Part, run


class Shown(Part):
    """It sends its parts four times a second, then signs of life, until it is aborted, or has sent so many."""

    def __init__(self, sign: bytes, *parts: bytes, count: int = 1_000_000, then: Sequence[bytes] = ()) -> None:
        super().__init__(*parts)
        self._sign = sign
        self._count = count
        self._rest = then

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        clock = asyncio.get_running_loop().time
        for data in itertools.chain(self._parts, itertools.repeat(self._sign, self._count), self._rest):
            await asyncio.wait({self._aborted}, timeout=0.25)
            if self._aborted.done():
                raise ExchangeLost(self._aborted.result())
            self.last_read_at = clock()
            sink(data)


MANY = [ROLE, *[TOKEN] * 8]
REST = (TOKEN.replace(b'"finish_reason":null', b'"finish_reason":"stop"'), b"data: [DONE]\n\n")


def test_a_node_that_sends_keepalives_is_waited_for() -> None:
    """Ten minutes in which a stream has no blocks, or a model takes its time: nothing of it reaches the client."""
    engines = Engines(lambda: Shown(KEEPALIVE, *MANY, count=2_400, then=REST))
    status, body, _ = run(engines, peers=2, virtual=True)
    assert (status, len(engines.opened)) == (200, 1)
    assert body.count(b"data: {") == 10
    assert KEEPALIVE not in body


def test_a_stream_that_its_working_engine_overtook_continues_on_another() -> None:
    turns = itertools.count()
    engines = Engines(lambda: Part(ROLE, *REST) if next(turns) else Shown(OVERTAKEN, *MANY))
    status, body, _ = run(engines, peers=2, virtual=True)
    assert (status, len(engines.opened)) == (200, 2)
    assert b"after silence on i-0" in body
    pause = re.search(rb"pause ([0-9.]+) ms", body)
    assert pause is not None
    assert 2_000 <= float(pause[1]) <= 3_500, "the client has waited since the last token, whatever signs came"
    assert OVERTAKEN not in body


def test_no_silence_is_measured_against_a_pace_that_does_not_exist_yet() -> None:
    """One token gives no pace; the timeout of a first token applies."""
    engines = Engines(lambda: Shown(OVERTAKEN, TOKEN, count=80, then=REST))  # for 20 s
    status, _, _ = run(engines, peers=2, virtual=True)
    assert (status, len(engines.opened)) == (200, 1)

"""A stream's machine, new or made again from its journal: which one it is, its route says."""

from __future__ import annotations

from collections.abc import Sequence

from node_agent.core.journal.epochs import Run
from node_agent.core.journal.records import read_lines
from node_agent.core.openai.generation_request import Generation
from node_agent.core.streams.chunk_stream import StreamMachine
from node_agent.core.streams.event_stream import Retelling

Machine = StreamMachine | Retelling


def begun(generation: Generation, stream_id: str, runs: Sequence[Run] = ()) -> Machine:
    """runs: who owns the stream (`core/journal/epochs`)."""
    make = Retelling if generation.kind.speaks_in_events else StreamMachine
    return make(generation, stream_id, runs)


def resumed(
    generation: Generation, stream_id: str, written: bytes, after: int, runs: Sequence[Run] = ()
) -> tuple[Machine, bytes]:
    """A stream made from its journal, and the events behind `after` that its client lacks. Raises ValueError.

    runs: of the stream (see `core/journal/epochs`), the new owner's included.
    """
    machine = begun(generation, stream_id, runs)
    return machine, read_back(machine, written, after)


def read_back(machine: Machine, written: bytes, after: int) -> bytes:
    """As `resumed`, into a machine that is new."""
    events = []
    for line in read_lines(written):
        event = machine.read_line(line)
        if machine.seq > after:
            events.append(event)
    machine.restored(written)
    return b"".join(events)

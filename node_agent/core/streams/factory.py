"""A stream's machine, new or made again from its journal: which one it is, its route says."""

from __future__ import annotations

from collections.abc import Sequence

from node_agent.core.journal.epochs import EpochRange
from node_agent.core.journal.records import read_records
from node_agent.core.openai.generation_request import GenerationRequest
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.core.streams.event_stream import EventStream

Machine = ChunkStream | EventStream


def new_stream(generation: GenerationRequest, stream_id: str, runs: Sequence[EpochRange] = ()) -> Machine:
    """runs: who owns the stream (`core/journal/epochs`)."""
    make = EventStream if generation.route.uses_named_events else ChunkStream
    return make(generation, stream_id, runs)


def restore_stream(
    generation: GenerationRequest, stream_id: str, written: bytes, after: int, runs: Sequence[EpochRange] = ()
) -> tuple[Machine, bytes]:
    """A stream made from its journal, and the events behind `after` that its client lacks. Raises ValueError.

    runs: of the stream (see `core/journal/epochs`), the new owner's included.
    """
    machine = new_stream(generation, stream_id, runs)
    return machine, replay_journal(machine, written, after)


def replay_journal(machine: Machine, written: bytes, after: int) -> bytes:
    """As `restore_stream`, into a machine that is new."""
    events = []
    for line in read_records(written):
        event = machine.apply_record(line)
        if machine.seq > after:
            events.append(event)
    machine.finish_restore(written)
    return b"".join(events)

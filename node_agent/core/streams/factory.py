"""Create a stream's state machine, new or restored from its journal; the route determines the class."""

from __future__ import annotations

from collections.abc import Sequence

from node_agent.core.journal.epochs import EpochRange
from node_agent.core.journal.records import read_records
from node_agent.core.openai.generation_request import GenerationRequest
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.core.streams.event_stream import EventStream
from node_agent.core.streams.stream_machine import StreamMachine


def new_stream(generation: GenerationRequest, stream_id: str, ranges: Sequence[EpochRange] = ()) -> StreamMachine:
    """Create a stream. ranges: its owners (`core/journal/epochs`)."""
    stream_class = EventStream if generation.route.uses_named_events else ChunkStream
    return stream_class(generation, stream_id, ranges)


def restore_stream(
    generation: GenerationRequest, stream_id: str, journal: bytes, after: int, ranges: Sequence[EpochRange] = ()
) -> tuple[StreamMachine, bytes]:
    """Restore a stream from its journal.

    Args:
        generation: the client's request.
        stream_id: the first part of each event's id.
        journal: the records.
        after: the number of the last event that the client has.
        ranges: the owners of the stream (`core/journal/epochs`), the new one included.

    Returns:
        The stream, and the events that its client lacks.

    Raises ValueError where the journal is not of such a stream.
    """
    machine = new_stream(generation, stream_id, ranges)
    return machine, replay_journal(machine, journal, after)


def replay_journal(machine: StreamMachine, journal: bytes, after: int) -> bytes:
    """Restore a journal into a new state machine; see `restore_stream`."""
    events = []
    for record in read_records(journal):
        event = machine.apply_record(record)
        if machine.seq > after:
            events.append(event)
    machine.finish_restore(journal)
    return b"".join(events)

"""Losses made to order: what an engine that goes leaves of a stream, byte by byte. Pure.

A fault is told to the stand-in beforehand, and the next stream that it fits takes it. `inject_fault` makes the bytes of
that stream; how its connection then ends is the last thing it yields. Each kind is a way in which a real vLLM was
seen to end, or one that a network between has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from local.fake_engine.answers import BadRequest

DONE = b"data: [DONE]\n\n"


class FaultKind(Enum):
    """What happens to a stream."""

    RESET = "reset"  # TCP RST
    ERROR_CHUNK = "error-chunk"  # an error chunk, then [DONE]
    DONE = "done"  # [DONE] without a finish_reason
    ABORT = "abort"  # finish_reason "abort", then [DONE]
    EOF = "eof"  # a clean end of the body
    SILENCE = "silence"  # nothing more, the socket stays open until the client goes
    SILENCE_BEFORE_FIRST = "silence-before-first"  # the same behind the response's head
    HALF_CHUNK = "half-chunk"  # half an event, then a clean end
    HALF_CHARACTER = "half-character"  # cut inside a character of the next chunk that has one of several bytes
    STATUS_500 = "status-500"
    WRONG_MODEL = "wrong-model"  # 404, as for a model that is not served
    BEFORE_FINISH = "before-finish"  # every token, then TCP RST in place of the finish_reason


class ConnectionEnd(Enum):
    """How a connection ends after its last bytes."""

    CLEAN = "clean"
    RESET = "reset"
    HANG = "hang"


ERROR_RESPONSES = frozenset({FaultKind.STATUS_500, FaultKind.WRONG_MODEL})
"""These answer in place of a stream."""

_FIXED_POSITION = ERROR_RESPONSES | {FaultKind.SILENCE_BEFORE_FIRST, FaultKind.BEFORE_FINISH}


@dataclass(frozen=True)
class Fault:
    """after_tokens: how many tokens come before it; path: of the streams that may take it, None for any.

    In an answer that is over before that many tokens, nothing happens.
    """

    kind: FaultKind
    after_tokens: int = 0
    path: str | None = None

    def to_json(self) -> dict[str, object]:
        return {"kind": self.kind.value, "after_tokens": self.after_tokens, "path": self.path}


@dataclass(frozen=True)
class Chunk:
    """One event of a stream. tokens: how many it carries."""

    data: bytes
    tokens: int = 0


@dataclass(frozen=True)
class ErrorPayloads:
    """What an engine may say at its end."""

    error: bytes
    abort: bytes


def read_faults(value: object) -> list[Fault]:
    """Raises BadRequest."""
    if not isinstance(value, list):
        raise BadRequest("Faults are a list of objects.")
    return [_read_fault(entry) for entry in value]


def _read_fault(entry: object) -> Fault:
    if not isinstance(entry, dict) or entry.keys() - {"kind", "after_tokens", "path"}:
        raise BadRequest(f"A fault has a kind, after_tokens and a path, this one is {entry!r}.")
    try:
        kind = FaultKind(entry.get("kind"))
    except ValueError:
        raise BadRequest(f"{entry.get('kind')!r} is none of {', '.join(k.value for k in FaultKind)}.", "kind") from None
    after, path = entry.get("after_tokens", 0), entry.get("path")
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise BadRequest(f"after_tokens must be a whole number, 0 or more, not {after!r}.", "after_tokens")
    if after and kind in _FIXED_POSITION:
        raise BadRequest(f"A {kind.value} has its own place: it takes no after_tokens.", "after_tokens")
    if path is not None and not isinstance(path, str):
        raise BadRequest(f"path must be a text, not {path!r}.", "path")
    return Fault(kind, after, path)


class FaultQueue:
    """Those that wait for their stream, and those that happened, in order."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []
        self.applied: list[tuple[Fault, float]] = []

    def replace(self, faults: Iterable[Fault]) -> None:
        """From now on these; what waited or happened is forgotten."""
        self.waiting, self.applied = list(faults), []

    def pop(self, path: str) -> Fault | None:
        """The first that a new stream of `path` meets; it meets no other."""
        for fault in self.waiting:
            if fault.path in (None, path):
                self.waiting.remove(fault)
                return fault
        return None

    def record(self, fault: Fault, at: float) -> None:
        """at: unix seconds."""
        self.applied.append((fault, at))

    def to_json(self) -> dict[str, object]:
        happened = [{**fault.to_json(), "at": at} for fault, at in self.applied]
        return {"waiting": [fault.to_json() for fault in self.waiting], "happened": happened}


def inject_fault(
    fault: Fault, chunks: Iterable[Chunk], words: Callable[[], ErrorPayloads]
) -> Iterator[Chunk | ConnectionEnd]:
    """What is left of `chunks`; an Ending comes last where the fault happened, and not where it found no place.

    For BEFORE_FINISH the chunks must come without a finish_reason.
    """
    if fault.kind is FaultKind.SILENCE_BEFORE_FIRST:
        yield ConnectionEnd.HANG
        return
    tokens = 0
    for chunk in chunks:
        if chunk.tokens and tokens >= fault.after_tokens and fault.kind is not FaultKind.BEFORE_FINISH:
            last = _last_bytes(fault.kind, chunk, words())
            if last is not None:
                yield Chunk(last)
                yield _CONNECTION_ENDS.get(fault.kind, ConnectionEnd.CLEAN)
                return
        tokens += chunk.tokens
        yield chunk
    if fault.kind is FaultKind.BEFORE_FINISH:
        yield ConnectionEnd.RESET


_CONNECTION_ENDS = {FaultKind.RESET: ConnectionEnd.RESET, FaultKind.SILENCE: ConnectionEnd.HANG}


def _last_bytes(kind: FaultKind, chunk: Chunk, words: ErrorPayloads) -> bytes | None:
    """What is sent in place of `chunk`; None where it gives this fault no place."""
    match kind:
        case FaultKind.ERROR_CHUNK:
            return words.error + DONE
        case FaultKind.ABORT:
            return words.abort + DONE
        case FaultKind.DONE:
            return DONE
        case FaultKind.HALF_CHUNK:
            return chunk.data[: len(chunk.data) // 2]
        case FaultKind.HALF_CHARACTER:
            lead = next((at for at, byte in enumerate(chunk.data) if byte >= 0xC0), None)
            return None if lead is None else chunk.data[: lead + 1]
        case _:
            return b""

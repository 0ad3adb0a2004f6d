"""Injects stream losses, byte by byte as an engine that ends leaves a stream. Pure.

A fault is configured beforehand, and the next stream of its path gets it. `inject_fault` yields the chunks of that
stream, and last how its connection ends. Each kind was observed with a real vLLM, or is one of the network between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from local.fake_engine.answers import BadRequest

DONE = b"data: [DONE]\n\n"


class FaultKind(Enum):
    """What happens to a stream; the values are those of the HTTP API."""

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
"""These respond with an error in place of a stream."""

_FIXED_POSITION = ERROR_RESPONSES | {FaultKind.SILENCE_BEFORE_FIRST, FaultKind.BEFORE_FINISH}


@dataclass(frozen=True)
class Fault:
    """A configured fault. after_tokens: the tokens sent before it; path: of the streams that get it, None for any.

    Nothing happens in an answer that ends before that many tokens.
    """

    kind: FaultKind
    after_tokens: int = 0
    path: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the fault as /standin/faults accepts and shows it."""
        return {"kind": self.kind.value, "after_tokens": self.after_tokens, "path": self.path}


@dataclass(frozen=True)
class Chunk:
    """One event of a stream. tokens: the number that it carries."""

    data: bytes
    tokens: int = 0


@dataclass(frozen=True)
class ErrorPayloads:
    """The last events that a failing engine sends."""

    error: bytes
    abort: bytes


def read_faults(value: object) -> list[Fault]:
    """Parse the body of a request. Raises BadRequest."""
    if not isinstance(value, list):
        raise BadRequest("Faults are a list of objects.")
    return [_read_fault(entry) for entry in value]


def _read_fault(entry: object) -> Fault:
    if not isinstance(entry, dict) or entry.keys() - {"kind", "after_tokens", "path"}:
        raise BadRequest(f"A fault has a kind, after_tokens and a path, this one is {entry!r}.")
    try:
        kind = FaultKind(entry.get("kind"))
    except ValueError:
        raise BadRequest(
            f"{entry.get('kind')!r} is not one of {', '.join(k.value for k in FaultKind)}.", "kind"
        ) from None
    after, path = entry.get("after_tokens", 0), entry.get("path")
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise BadRequest(f"after_tokens must be a whole number, 0 or more, not {after!r}.", "after_tokens")
    if after and kind in _FIXED_POSITION:
        raise BadRequest(f"A {kind.value} has a fixed position: it accepts no after_tokens.", "after_tokens")
    if path is not None and not isinstance(path, str):
        raise BadRequest(f"path must be a text, not {path!r}.", "path")
    return Fault(kind, after, path)


class FaultQueue:
    """Faults that wait for a stream, and those that were applied, in order."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []
        self.applied: list[tuple[Fault, float]] = []

    def replace(self, faults: Iterable[Fault]) -> None:
        """Replace the waiting faults and forget the applied ones."""
        self.waiting, self.applied = list(faults), []

    def pop(self, path: str) -> Fault | None:
        """Remove and return the fault of a new stream of `path`, None if it has none."""
        for fault in self.waiting:
            if fault.path in (None, path):
                self.waiting.remove(fault)
                return fault
        return None

    def record(self, fault: Fault, at: float) -> None:
        """Record an applied fault. at: unix seconds."""
        self.applied.append((fault, at))

    def to_json(self) -> dict[str, object]:
        """Return what GET /standin/faults has."""
        happened = [{**fault.to_json(), "at": at} for fault, at in self.applied]
        return {"waiting": [fault.to_json() for fault in self.waiting], "happened": happened}


def inject_fault(
    fault: Fault, chunks: Iterable[Chunk], payloads: Callable[[], ErrorPayloads]
) -> Iterator[Chunk | ConnectionEnd]:
    """Yield `chunks` up to the fault, then a ConnectionEnd; without one, the fault was not applied.

    For BEFORE_FINISH the chunks must come without a finish_reason.
    """
    if fault.kind is FaultKind.SILENCE_BEFORE_FIRST:
        yield ConnectionEnd.HANG
        return
    tokens = 0
    for chunk in chunks:
        if chunk.tokens and tokens >= fault.after_tokens and fault.kind is not FaultKind.BEFORE_FINISH:
            last = _last_bytes(fault.kind, chunk, payloads())
            if last is not None:
                yield Chunk(last)
                yield _CONNECTION_ENDS.get(fault.kind, ConnectionEnd.CLEAN)
                return
        tokens += chunk.tokens
        yield chunk
    if fault.kind is FaultKind.BEFORE_FINISH:
        yield ConnectionEnd.RESET


_CONNECTION_ENDS = {FaultKind.RESET: ConnectionEnd.RESET, FaultKind.SILENCE: ConnectionEnd.HANG}


def _last_bytes(kind: FaultKind, chunk: Chunk, payloads: ErrorPayloads) -> bytes | None:
    """Return what is sent in place of `chunk`, None if the fault cannot be applied to it."""
    match kind:
        case FaultKind.ERROR_CHUNK:
            return payloads.error + DONE
        case FaultKind.ABORT:
            return payloads.abort + DONE
        case FaultKind.DONE:
            return DONE
        case FaultKind.HALF_CHUNK:
            return chunk.data[: len(chunk.data) // 2]
        case FaultKind.HALF_CHARACTER:
            lead = next((at for at, byte in enumerate(chunk.data) if byte >= 0xC0), None)
            return None if lead is None else chunk.data[: lead + 1]
        case _:
            return b""

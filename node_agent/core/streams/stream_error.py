"""Define the errors that end a client's stream before its answer is complete."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from node_agent.contract.errors import ContinuationImpossible, RequestRejected
from node_agent.core.failure.attempts import Attempts

MOVED = frozenset({"handoff", "stream_taken"})
"""Codes that end a connection and no stream: a node that stops sends its client to another one, or the client has
resumed the stream elsewhere."""


@dataclass(frozen=True, slots=True)
class StreamError:
    """An error of this node, as the client receives it."""

    code: str
    message: str
    status: int = 503
    """Of the response where none has begun; an error in the stream has no status."""


def continuation_impossible(impossible: ContinuationImpossible) -> StreamError:
    """Return the error of a stream whose answer no engine here can continue."""
    return StreamError("continuation_impossible", f"The engine was lost, and {impossible} rules out a continuation.")


def rejected(refused: RequestRejected) -> StreamError:
    """Return the error of a request that is refused as it is."""
    return StreamError(refused.code, str(refused), refused.status)


def exhausted(attempts: Attempts) -> StreamError:
    """Return the error where no engine is left to try, and none sent an error of its own."""
    if attempts.all_busy:
        return StreamError("fleet_full", "No engine had room for this request; try again.", 429)
    if attempts.is_at_bound:
        return StreamError("engine_lost", f"{attempts.summary('engines')} were lost under this request.")
    after = f", after {attempts.summary('engines')} lost it" if attempts.codes else ""
    return StreamError("no_ready_node", f"No node is ready to continue this request{after}.")


def handed_off(addresses: Iterable[str]) -> StreamError:
    """Return the error of a stream whose node stops. addresses: of the nodes to resume at, the best first.

    It does not have the resume token, which its client has from the head: errors are logged.
    """
    where = ", ".join(addresses) or "none"
    return StreamError("handoff", f"This node is stopping; resume the stream (its X-Synkti-Stream) at: {where}.")


def taken_over(stream_id: str) -> StreamError:
    """Return the error on a connection whose stream another connection, or another node, serves."""
    return StreamError("stream_taken", f"Stream {stream_id} was resumed elsewhere; nothing more comes here.", 409)

"""Whose fault a failed hop is, and what follows: one decision for all of them, with its reason. Pure.

A hop is from an entry to an engine, its own or through the peer door of another node. What failed is either an answer
(a status, and the kind of its body), an error event inside a stream, or an exchange that was lost (in a word). `by`
says who made it: an ENGINE, asked directly or passed on by its node with ENGINE_HEADER; or a PEER, its door or the
connection to it.

    by      what failed                     fault    next       breaker  why
    ------  ------------------------------  -------  ---------  -------  ----------------
    engine  status 307                      client   final      -        refused-request
    engine  status 400 error                client   final      -        refused-request
    engine  status 400 other                client   final      -        refused-request
    engine  status 400 error, continuation  ours     elsewhere  -        refused-continuation
    engine  status 401 error                engine   elsewhere  counts   engine-locked
    engine  status 404 error                client   final      -        refused-request
    engine  status 404 other                client   final      -        refused-request
    engine  status 404 no-such-model        engine   elsewhere  counts   wrong-model
    engine  status 422 error                client   final      -        refused-request
    engine  status 429 error                engine   elsewhere  -        engine-busy
    engine  status 500 error                client   once-more  -        failed-request
    engine  status 500 other                engine   once-more  doubt    engine-error
    engine  status 500 engine-dead          engine   elsewhere  -        engine-died
    engine  status 501 error                client   final      -        refused-request
    engine  status 502 other                engine   once-more  doubt    engine-error
    engine  status 503 error                engine   elsewhere  -        engine-busy
    engine  status 503 other                engine   elsewhere  -        engine-busy
    peer    status 400 error                peer     elsewhere  counts   peer-refused
    peer    status 401 error                peer     elsewhere  counts   peer-refused
    peer    status 404 error                peer     elsewhere  counts   peer-refused
    peer    status 404 no-such-model        peer     elsewhere  counts   peer-refused
    peer    status 413 error                ours     elsewhere  -        peer-limit
    peer    status 429 error                peer     elsewhere  -        peer-busy
    peer    status 431 other                ours     elsewhere  -        peer-limit
    peer    status 500 other                peer     elsewhere  counts   peer-refused
    peer    status 503 error                peer     elsewhere  -        peer-busy
    engine  event 400                       client   final      -        refused-request
    engine  event 400, continuation         ours     elsewhere  -        refused-continuation
    engine  event 500                       client   once-more  -        failed-request
    engine  event 503                       engine   elsewhere  -        engine-busy
    engine  event engine-dead               engine   elsewhere  -        engine-died
    engine  event unreadable                engine   elsewhere  counts   error-chunk
    engine  lost refused                    engine   elsewhere  counts   refused
    engine  lost unreachable                engine   elsewhere  counts   unreachable
    engine  lost reset                      engine   elsewhere  counts   reset
    engine  lost eof                        engine   elsewhere  counts   eof
    engine  lost silence                    engine   elsewhere  counts   silence
    engine  lost broken                     engine   elsewhere  counts   broken
    engine  lost abort                      engine   elsewhere  counts   abort
    engine  lost done-without-finish        engine   elsewhere  counts   done-without-finish
    engine  lost end-without-finish         engine   elsewhere  counts   end-without-finish
    engine  lost malformed-chunk            engine   elsewhere  counts   malformed-chunk
    engine  lost wrong-model                engine   elsewhere  counts   wrong-model
    engine  lost engine-died                engine   elsewhere  -        engine-died
    engine  lost engine-stuck               engine   elsewhere  -        engine-stuck
    engine  lost diverged                   ours     elsewhere  -        diverged
    engine  lost piece-without-mark         ours     elsewhere  -        piece-without-mark
    engine  lost event-too-large            client   once-more  -        event-too-large
    engine  lost too-large                  client   once-more  -        too-large
    engine  lost something-new              engine   elsewhere  counts   other
    peer    lost refused                    peer     elsewhere  counts   refused
    peer    lost reset                      peer     elsewhere  counts   reset
    peer    lost eof                        peer     elsewhere  counts   eof
    peer    lost broken                     peer     elsewhere  counts   broken
    peer    lost unreachable                network  elsewhere  counts   unreachable
    peer    lost silence                    network  elsewhere  counts   silence
    peer    lost peer-silent                network  elsewhere  counts   peer-silent
    peer    lost too-large                  client   once-more  -        too-large
    peer    lost something-new              peer     elsewhere  counts   other
    engine  lost handoff                    ours     elsewhere  -        handoff
    engine  lost draining                   ours     elsewhere  -        not-serving
    engine  lost starting                   ours     elsewhere  -        not-serving
    engine  lost gone                       ours     elsewhere  -        not-serving

Rules behind the rows:

* What an engine answers in its API's own form belongs to the request. A 4xx is final; vLLM says 500 of values that it
  should have refused (an empty grammar, a schema that refers to itself), and of its own faults, so one other engine
  gives a second opinion, and its answer, whatever it is, is the client's.
* A 5xx without that form is the engine's only where another engine can answer the request ("doubt").
* The request for the rest of an answer is made here: that an engine refuses it says nothing of what the client sent.
* A peer door's own answer is about that peer, never about the client. What its engine said is marked as such.
* Being busy is no fault: a breaker that opened for it would take capacity away when it is needed most.
* A breaker is this entry's, of its way to that node's engine; so a network between them counts, too.
* What an unknown word means is not known, so it is the node's; it is counted as `other`, because words come from
  peers, and metrics have few labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

ENGINE_DEAD = "EngineCore encountered an issue"
"""How vLLM 0.32 says that its engine process has ended, while its API server still answers (v1/engine/exceptions)."""

ENGINE_DIED = "engine-died"
ENGINE_STUCK = "engine-stuck"
"""By its own node's judgement (`core/engine/liveness`), which takes the engine out of the routes by itself."""

WRONG_MODEL = "wrong-model"
_NOT_SERVING = "not-serving"
_MAX_ERROR_BYTES = 1024 * 1024


class Origin(Enum):
    """Who made what failed."""

    ENGINE = "engine"
    PEER = "peer"


class Fault(Enum):
    """Whose it is."""

    CLIENT = "client"
    ENGINE = "engine"
    PEER = "peer"
    NETWORK = "network"
    OURS = "ours"


class NextStep(Enum):
    """What to do with the request."""

    FINAL = "final"  # the client gets this answer as it is
    ONCE_MORE = "once-more"  # one more engine; where it fails in this way, too, the client gets its answer
    ELSEWHERE = "elsewhere"  # another engine, within the bound on engines


class BreakerEffect(Enum):
    """Whether it counts at the node's breaker."""

    YES = "counts"
    NO = "-"
    IN_DOUBT = "doubt"  # once another engine has answered the same request


class BodyKind(Enum):
    """What an answer's body is, for this decision."""

    ERROR = "error"  # an error in OpenAI's or Anthropic's form
    NO_SUCH_MODEL = "no-such-model"
    ENGINE_DEAD = "engine-dead"
    OTHER = "other"  # plain text, HTML, nothing


@dataclass(frozen=True, slots=True)
class Verdict:
    """why: one of few words, for metrics; reason: for people."""

    fault: Fault
    next: NextStep
    breaker: BreakerEffect
    code: str
    reason: str

    @property
    def is_death(self) -> bool:
        """Whether the engine's process ended, or is ended because it does nothing any more."""
        return self.code in (ENGINE_DIED, ENGINE_STUCK)


_REFUSED = Verdict(
    Fault.CLIENT,
    NextStep.FINAL,
    BreakerEffect.NO,
    "refused-request",
    "the engine answered; what it says is about the request",
)
_CONTINUATION = Verdict(
    Fault.OURS,
    NextStep.ELSEWHERE,
    BreakerEffect.NO,
    "refused-continuation",
    "the engine refused what this entry made of the request",
)
_FAILED = Verdict(
    Fault.CLIENT,
    NextStep.ONCE_MORE,
    BreakerEffect.NO,
    "failed-request",
    "the engine works and says that this request failed",
)
_STUCK = Verdict(
    Fault.ENGINE,
    NextStep.ELSEWHERE,
    BreakerEffect.NO,
    ENGINE_STUCK,
    "the engine did nothing any more; it is started anew",
)
_WRONG_MODEL = Verdict(
    Fault.ENGINE,
    NextStep.ELSEWHERE,
    BreakerEffect.YES,
    WRONG_MODEL,
    "the node serves this model, and its engine does not have it",
)
_UNAUTHORIZED = Verdict(
    Fault.ENGINE,
    NextStep.ELSEWHERE,
    BreakerEffect.YES,
    "engine-locked",
    "the engine wants a key of the node, not of the client",
)
_BUSY = Verdict(
    Fault.ENGINE, NextStep.ELSEWHERE, BreakerEffect.NO, "engine-busy", "the engine takes nothing more for now"
)
_ERROR = Verdict(
    Fault.ENGINE,
    NextStep.ONCE_MORE,
    BreakerEffect.IN_DOUBT,
    "engine-error",
    "the engine failed and does not say at what",
)
_DIED = Verdict(
    Fault.ENGINE, NextStep.ELSEWHERE, BreakerEffect.NO, ENGINE_DIED, "the engine's process ended; it leaves the ring"
)
_PEER_REFUSED = Verdict(
    Fault.PEER,
    NextStep.ELSEWHERE,
    BreakerEffect.YES,
    "peer-refused",
    "the peer's door refused; its engine was not asked",
)
_PEER_BUSY = Verdict(Fault.PEER, NextStep.ELSEWHERE, BreakerEffect.NO, "peer-busy", "the peer's door takes nothing now")
_PEER_LIMIT = Verdict(
    Fault.OURS,
    NextStep.ELSEWHERE,
    BreakerEffect.NO,
    "peer-limit",
    "what this entry made of the request is larger than the peer takes",
)

_ENGINE_LOSSES = {
    "refused": "nothing listens where the engine should",
    "unreachable": "no connection to the engine could be made",
    "reset": "the engine's connection broke",
    "eof": "the engine ended its answer before the answer's end",
    "silence": "the engine serves others, and says nothing more on this request",
    "broken": "what the engine sent is not HTTP",
    "abort": "the engine aborted the request, which only an engine that goes does",
    "done-without-finish": "the engine ended the stream without a finish_reason",
    "end-without-finish": "the engine ended the stream before its generation ended",
    "malformed-chunk": "the engine sent an event that is none of its API",
    "error-chunk": "the engine sent an error that cannot be read",
}
_PEER_LOSSES = {
    "refused": "nothing listens at the peer",
    "reset": "the peer's connection broke",
    "eof": "the peer ended its answer before the answer's end",
    "broken": "what the peer sent is not HTTP",
}
_NETWORK_LOSSES = {
    "unreachable": "no connection to the peer could be made in time",
    "silence": "the peer, which accepts requests at once, says nothing",
    "peer-silent": "membership holds the peer for dead",
}
_PLANNED = {
    "handoff": "the node goes and gave the request back",
    "draining": "the node goes and takes nothing new",
    "starting": "the node's engine is not up yet",
    "gone": "the node has ended",
}
_OWN_LOSSES = {
    "diverged": "the answer was continued in other words than it began",
    "piece-without-mark": "this piece of the answer has no place to go on from",
}
_TOO_LARGE = {
    "too-large": "the answer is larger than a node takes",
    "event-too-large": "an event of the answer is larger than a node takes",
}


def _losses() -> dict[tuple[Origin, str], Verdict]:
    found: dict[tuple[Origin, str], Verdict] = {}
    for by in Origin:
        for why, reason in _PLANNED.items():
            word = why if why == "handoff" else _NOT_SERVING
            found[by, why] = Verdict(Fault.OURS, NextStep.ELSEWHERE, BreakerEffect.NO, word, reason)
        for why, reason in _OWN_LOSSES.items():
            found[by, why] = Verdict(Fault.OURS, NextStep.ELSEWHERE, BreakerEffect.NO, why, reason)
        for why, reason in _TOO_LARGE.items():
            found[by, why] = Verdict(Fault.CLIENT, NextStep.ONCE_MORE, BreakerEffect.NO, why, reason)
    counted = NextStep.ELSEWHERE, BreakerEffect.YES
    found |= {
        (Origin.ENGINE, why): Verdict(Fault.ENGINE, *counted, why, reason) for why, reason in _ENGINE_LOSSES.items()
    }
    found |= {(Origin.PEER, why): Verdict(Fault.PEER, *counted, why, reason) for why, reason in _PEER_LOSSES.items()}
    found |= {
        (Origin.PEER, why): Verdict(Fault.NETWORK, *counted, why, reason) for why, reason in _NETWORK_LOSSES.items()
    }
    found[Origin.ENGINE, WRONG_MODEL] = _WRONG_MODEL
    found[Origin.ENGINE, ENGINE_DIED] = _DIED
    found[Origin.ENGINE, ENGINE_STUCK] = _STUCK
    return found


_LOSSES = _losses()


def classify_loss(by: Origin, why: str) -> Verdict:
    """An exchange that was lost. why: in one word, as `core/failure/report.read_loss` gives it."""
    verdict = _LOSSES.get((by, why))
    if verdict is not None:
        return verdict
    fault = Fault.ENGINE if by is Origin.ENGINE else Fault.PEER
    return Verdict(fault, NextStep.ELSEWHERE, BreakerEffect.YES, "other", "lost for a reason that is not known here")


def classify_answer(by: Origin, status: int, body: BodyKind, *, is_continuation: bool = False) -> Verdict:
    """An answer that is not the one that was asked for: any status but a 2xx.

    is_continuation: whether the request was for the rest of an answer, which other engines began.
    """
    if by is Origin.PEER:
        if status in (413, 431):
            return _PEER_LIMIT
        return _PEER_BUSY if status in (429, 503) else _PEER_REFUSED
    if body is BodyKind.ENGINE_DEAD:
        return _DIED
    if body is BodyKind.NO_SUCH_MODEL and status == 404:
        return _WRONG_MODEL
    if status == 401:
        return _UNAUTHORIZED
    if status in (429, 503):
        return _BUSY
    if status < 500 or status == 501:
        return _CONTINUATION if is_continuation else _REFUSED
    return _FAILED if body is BodyKind.ERROR else _ERROR


def classify_event(payload: bytes, *, is_continuation: bool = False) -> Verdict:
    """An error event in an engine's stream. vLLM says 200 before it checks all of a request whose answer it streams.

    is_continuation: as for `classify_answer`.
    """
    error = _read_error(payload)
    if error is None:
        return Verdict(
            Fault.ENGINE, NextStep.ELSEWHERE, BreakerEffect.YES, "error-chunk", _ENGINE_LOSSES["error-chunk"]
        )
    if _is_dead_engine(error):
        return _DIED
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return classify_answer(Origin.ENGINE, status, BodyKind.ERROR, is_continuation=is_continuation)


def classify_body(body: bytes, *, has_model: bool) -> BodyKind:
    """What an answer's body is. has_model: whether the node's engine should have the model that was asked for."""
    error = _read_error(body)
    if error is None:
        return BodyKind.OTHER
    if _is_dead_engine(error):
        return BodyKind.ENGINE_DEAD
    is_about_model = error.get("param") == "model" or str(error["message"]).startswith("The model `")
    return BodyKind.NO_SUCH_MODEL if has_model and is_about_model else BodyKind.ERROR


def reports_dead_engine(body: bytes) -> bool:
    """Whether an answer, or an event of a stream, says that the engine behind the API server has ended."""
    if ENGINE_DEAD.encode() not in body:
        return False
    error = _read_error(body)
    return error is not None and _is_dead_engine(error)


def _is_dead_engine(error: dict[str, Any]) -> bool:
    return str(error["message"]).startswith(ENGINE_DEAD)


def _read_error(body: bytes) -> dict[str, Any] | None:
    """The error object in OpenAI's or Anthropic's form; None where there is none."""
    if len(body) > _MAX_ERROR_BYTES:
        return None
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(told, dict):
        return None
    error = told.get("error")
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return error
    failed = told.get("response")  # a response.failed event of /v1/responses
    error = failed.get("error") if isinstance(failed, dict) else None
    return error if isinstance(error, dict) and isinstance(error.get("message"), str) else None

"""Attribute a failed hop to a party and decide what follows: one table for all failures, with reasons. Pure.

A hop is from an entry to an engine, its own or through another node's peer API. What failed is either an answer (a
status, and the kind of its body), an error event inside a stream, or an exchange that was lost (with a code). `by` is
the party that sent it: an ENGINE, directly or forwarded by its node with ENGINE_HEADER; or a PEER, its API or the
connection to it.

    by      what failed                     fault    next       breaker  code
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
    engine  lost engine-killed              engine   elsewhere  -        engine-killed
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
    peer    lost not-a-peer                 peer     elsewhere  -        not-a-peer
    peer    lost too-large                  client   once-more  -        too-large
    peer    lost something-new              peer     elsewhere  counts   other
    engine  lost handoff                    ours     elsewhere  -        handoff
    engine  lost draining                   ours     elsewhere  -        not-serving
    engine  lost starting                   ours     elsewhere  -        not-serving
    engine  lost gone                       ours     elsewhere  -        not-serving

Rules behind the rows:

* An engine's answer in its API's own form is about the request. A 4xx is final; vLLM answers 500 to values that it
  should have refused (an empty grammar, a schema that refers to itself), and for its own faults, so one other engine
  is tried, and its answer, whatever it is, is the client's.
* A 5xx without that form is the engine's only where another engine can answer the request ("doubt").
* The entry builds the request for the rest of an answer: an engine's refusal of it is not about what the client sent.
* A peer API's own answer is about that peer, never about the client. Its engine's answers are marked as such.
* Being busy is no fault: a breaker that opened for it would remove capacity when it is needed most.
* A breaker is for one entry's path to a node's engine; so a network fault between them counts, too.
* The meaning of an unknown code is not known, so the node is at fault; it is counted as `other`, because codes come
  from peers, and metrics have few labels.
"""

from __future__ import annotations

from node_agent.core.failure.error_body import BodyKind, parse_error
from node_agent.core.failure.loss import LossReason
from node_agent.core.failure.verdict import BreakerEffect, Fault, NextStep, Origin, Verdict

NOT_SERVING = "not-serving"

_REFUSED = Verdict(
    Fault.CLIENT,
    NextStep.FINAL,
    BreakerEffect.NO,
    "refused-request",
    "the engine answered; its answer is about the request",
)
_CONTINUATION = Verdict(
    Fault.OURS,
    NextStep.ELSEWHERE,
    BreakerEffect.NO,
    "refused-continuation",
    "the engine refused the request that this entry built",
)
_FAILED = Verdict(
    Fault.CLIENT,
    NextStep.ONCE_MORE,
    BreakerEffect.NO,
    "failed-request",
    "the engine works and reports that this request failed",
)
_STUCK = Verdict(
    Fault.ENGINE,
    NextStep.ELSEWHERE,
    BreakerEffect.NO,
    LossReason.ENGINE_STUCK.value,
    "the engine was stuck; it is restarted",
)
_WRONG_MODEL = Verdict(
    Fault.ENGINE,
    NextStep.ELSEWHERE,
    BreakerEffect.YES,
    LossReason.WRONG_MODEL.value,
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
    Fault.ENGINE, NextStep.ELSEWHERE, BreakerEffect.NO, "engine-busy", "the engine accepts nothing more for now"
)
_ERROR = Verdict(
    Fault.ENGINE,
    NextStep.ONCE_MORE,
    BreakerEffect.IN_DOUBT,
    "engine-error",
    "the engine failed and does not report at what",
)
_DIED = Verdict(
    Fault.ENGINE,
    NextStep.ELSEWHERE,
    BreakerEffect.NO,
    LossReason.ENGINE_DIED.value,
    "the engine's process ended; it leaves the ring",
)
_KILLED = Verdict(
    Fault.ENGINE,
    NextStep.ELSEWHERE,
    BreakerEffect.NO,
    LossReason.ENGINE_KILLED.value,
    "the engine's process was ended from outside",
)
_PEER_REFUSED = Verdict(
    Fault.PEER,
    NextStep.ELSEWHERE,
    BreakerEffect.YES,
    "peer-refused",
    "the peer API refused; its engine received no request",
)
_PEER_BUSY = Verdict(Fault.PEER, NextStep.ELSEWHERE, BreakerEffect.NO, "peer-busy", "the peer API accepts nothing now")
_NOT_A_PEER = Verdict(
    Fault.PEER,
    NextStep.ELSEWHERE,
    BreakerEffect.NO,
    LossReason.NOT_A_PEER.value,
    "this node shares no key with the node: nothing was sent",
)
_PEER_LIMIT = Verdict(
    Fault.OURS,
    NextStep.ELSEWHERE,
    BreakerEffect.NO,
    "peer-limit",
    "the request that this entry built is larger than the peer accepts",
)

_ENGINE_LOSSES = {
    LossReason.REFUSED: "nothing listens where the engine should",
    LossReason.UNREACHABLE: "no connection to the engine could be made",
    LossReason.RESET: "the engine's connection broke",
    LossReason.EOF: "the engine ended its answer before the answer's end",
    LossReason.SILENCE: "the engine serves others, and sends nothing more for this request",
    LossReason.BROKEN: "what the engine sent is not HTTP",
    LossReason.ABORT: "the engine aborted the request, which only a terminating engine does",
    LossReason.DONE_WITHOUT_FINISH: "the engine ended the stream without a finish_reason",
    LossReason.END_WITHOUT_FINISH: "the engine ended the stream before its generation ended",
    LossReason.MALFORMED_CHUNK: "the engine sent an event that is none of its API",
    LossReason.ERROR_CHUNK: "the engine sent an error that cannot be read",
}
_PEER_LOSSES = {
    LossReason.REFUSED: "nothing listens at the peer",
    LossReason.RESET: "the peer's connection broke",
    LossReason.EOF: "the peer ended its answer before the answer's end",
    LossReason.BROKEN: "what the peer sent is not HTTP, or not signed by it",
}
_NETWORK_LOSSES = {
    LossReason.UNREACHABLE: "no connection to the peer could be made in time",
    LossReason.SILENCE: "the peer, which accepts requests at once, sends nothing",
    LossReason.PEER_SILENT: "membership considers the peer dead",
}
_PLANNED = {
    LossReason.HANDOFF: "the node drains and handed the request off",
    LossReason.DRAINING: "the node drains and accepts nothing new",
    LossReason.STARTING: "the node's engine is not up yet",
    LossReason.GONE: "the node has ended",
}
_OWN_LOSSES = {
    LossReason.DIVERGED: "the continued answer differs from the delivered one",
    LossReason.PIECE_WITHOUT_MARK: "this segment of the answer has no resume point",
}
_TOO_LARGE = {
    LossReason.TOO_LARGE: "the answer is larger than a node accepts",
    LossReason.EVENT_TOO_LARGE: "an event of the answer is larger than a node accepts",
}


def _verdicts_of_losses() -> dict[tuple[Origin, LossReason], Verdict]:
    found: dict[tuple[Origin, LossReason], Verdict] = {}
    for by in Origin:
        for loss, text in _PLANNED.items():
            code = loss.value if loss is LossReason.HANDOFF else NOT_SERVING
            found[by, loss] = Verdict(Fault.OURS, NextStep.ELSEWHERE, BreakerEffect.NO, code, text)
        for loss, text in _OWN_LOSSES.items():
            found[by, loss] = Verdict(Fault.OURS, NextStep.ELSEWHERE, BreakerEffect.NO, loss.value, text)
        for loss, text in _TOO_LARGE.items():
            found[by, loss] = Verdict(Fault.CLIENT, NextStep.ONCE_MORE, BreakerEffect.NO, loss.value, text)
    for by, fault, losses in (
        (Origin.ENGINE, Fault.ENGINE, _ENGINE_LOSSES),
        (Origin.PEER, Fault.PEER, _PEER_LOSSES),
        (Origin.PEER, Fault.NETWORK, _NETWORK_LOSSES),
    ):
        for loss, text in losses.items():
            found[by, loss] = Verdict(fault, NextStep.ELSEWHERE, BreakerEffect.YES, loss.value, text)
    for verdict in (_WRONG_MODEL, _DIED, _KILLED, _STUCK):
        found[Origin.ENGINE, LossReason(verdict.code)] = verdict
    found[Origin.PEER, LossReason.NOT_A_PEER] = _NOT_A_PEER
    return found


_LOSSES = _verdicts_of_losses()


def classify_loss(by: Origin, reason: LossReason) -> Verdict:
    """Decide on an exchange that was lost. A reason without a row of its own is OTHER's."""
    verdict = _LOSSES.get((by, reason))
    if verdict is not None:
        return verdict
    fault = Fault.ENGINE if by is Origin.ENGINE else Fault.PEER
    code = LossReason.OTHER.value
    return Verdict(fault, NextStep.ELSEWHERE, BreakerEffect.YES, code, "lost for an unknown reason")


def classify_answer(by: Origin, status: int, body: BodyKind, *, is_continuation: bool = False) -> Verdict:
    """Return the verdict on an answer with any status but a 2xx.

    is_continuation: whether the request was for the rest of an answer that other engines began.
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
    """Return the verdict on an error event in a stream.

    vLLM sends 200 before it checks all of a request whose answer it streams.

    is_continuation: as for `classify_answer`.
    """
    error = parse_error(payload)
    if error is None:
        return Verdict(
            Fault.ENGINE,
            NextStep.ELSEWHERE,
            BreakerEffect.YES,
            LossReason.ERROR_CHUNK.value,
            _ENGINE_LOSSES[LossReason.ERROR_CHUNK],
        )
    if error.reports_dead_engine:
        return _DIED
    return classify_answer(Origin.ENGINE, error.status or 500, BodyKind.ERROR, is_continuation=is_continuation)

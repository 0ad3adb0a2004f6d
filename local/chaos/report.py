"""Compares every output of a run with its reference and writes the certificate."""

from __future__ import annotations

from pathlib import Path

from local import certificate as certificates
from local.certificate import Output, StreamOutcome
from local.chaos.client import RequestResult
from local.chaos.runner import ChaosRun


def write_report(chaos: ChaosRun, seed: int, out: Path, duration_s: float) -> bool:
    """Write the certificate, print it and every violation; return True if there is none."""
    outcomes = [outcome for at, result in enumerate(chaos.results) for outcome in _outcomes(chaos, at, result)]
    document = certificates.build_certificate(chaos.engine.name, seed, dict(chaos.fault_counts), outcomes, duration_s)
    document["unanswerable"] = chaos.fleet.unanswerable.to_json()
    chains = document.pop("chains")
    (out / "chains.json").write_text(certificates.to_json(chains))
    (out / "certificate.json").write_text(certificates.to_json(document))
    chaos.screen.print_text(certificates.to_json(document))
    for outcome in outcomes:
        if not outcome.verified:
            result = chaos.results[int(outcome.name.partition(".")[0])]
            chaos.screen.log(
                f"stream {outcome.name}: {result.request} {result.continuations} {result.error}", style="red"
            )
            chaos.screen.log(f"  {_first_difference(outcome)}")
    answered = chaos.fleet.unanswerable.answered
    if answered:
        chaos.screen.log(f"{answered} requests were answered that cannot be", style="bold red")
    is_passed = certificates.passed(document) and not answered
    word, style = ("kept", "bold green") if is_passed else ("BROKEN", "bold red")
    chaos.screen.log(f"{word}: an interruption costs a client a pause, never a token", style=style)
    return is_passed


def _outcomes(chaos: ChaosRun, number: int, result: RequestResult) -> list[StreamOutcome]:
    """Return one outcome a choice. The longest pause counts, with the fault of the node that the stream lost then."""
    request, reference = result.request, chaos.references[result.request.key]
    longest = max(result.continuations, key=lambda continuation: continuation.pause_ms, default=None)
    outcomes = []
    for index, answer in enumerate(result.outputs or [Output((), "")] * request.choices):
        pause = longest if not index else None
        outcomes.append(
            StreamOutcome(
                name=f"{number}.{index}",
                reference=_comparable(reference, request.returns_token_ids),
                delivered=_comparable(answer, request.returns_token_ids),
                fault_kind=chaos.fault_by_node.get(pause.lost_node, pause.reason) if pause else None,
                pause_ms=pause.pause_ms if pause else None,
                error=(result.error or result.inconsistency) if not index else None,
            )
        )
    return outcomes


def _comparable(answer: Output, has_ids: bool) -> Output:
    """Return the output; without token ids, its characters take their place."""
    return answer if has_ids else Output(tuple(map(ord, answer.text)), answer.text)


def _first_difference(outcome: StreamOutcome) -> str:
    reference, got = outcome.reference, outcome.delivered
    shorter = min(len(reference.token_ids), len(got.token_ids))
    at = next((n for n in range(shorter) if reference.token_ids[n] != got.token_ids[n]), shorter)
    return f"{len(got.token_ids)} of {len(reference.token_ids)}, different from {at} on; text ends {got.text[-40:]!r}"

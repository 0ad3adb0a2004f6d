"""The verdict on one run: every answer against the right one, and the certificate."""

from __future__ import annotations

from pathlib import Path

from local import certificate as certificates
from local.certificate import Output, StreamOutcome
from local.chaos.client import RequestResult
from local.chaos.runner import ChaosRun


def write_report(chaos: ChaosRun, seed: int, out: Path, duration_s: float) -> bool:
    """Write the certificate, show it and what is wrong; whether the promise was kept."""
    accounts = [account for at, heard in enumerate(chaos.results) for account in _outcomes(chaos, at, heard)]
    document = certificates.build_certificate(chaos.engine.name, seed, dict(chaos.fault_counts), accounts, duration_s)
    document["unanswerable"] = chaos.fleet.unanswerable.to_json()
    chains = document.pop("chains")
    (out / "chains.json").write_text(certificates.to_json(chains))
    (out / "certificate.json").write_text(certificates.to_json(document))
    chaos.screen.print_text(certificates.to_json(document))
    for account in accounts:
        if not account.verified:
            heard = chaos.results[int(account.name.partition(".")[0])]
            chaos.screen.log(f"stream {account.name}: {heard.request} {heard.continuations} {heard.error}", style="red")
            chaos.screen.log(f"  {_first_difference(account)}")
    answered = chaos.fleet.unanswerable.answered
    if answered:
        chaos.screen.log(f"{answered} requests were answered that cannot be", style="bold red")
    kept = certificates.passed(document) and not answered
    word, style = ("kept", "bold green") if kept else ("BROKEN", "bold red")
    chaos.screen.log(f"{word}: an interruption costs a client a pause, never a token", style=style)
    return kept


def _outcomes(chaos: ChaosRun, number: int, heard: RequestResult) -> list[StreamOutcome]:
    """One for each choice. The longest pause counts, with the strike on the node that the stream lost then."""
    question, right = heard.request, chaos.references[heard.request.key]
    longest = max(heard.continuations, key=lambda pause: pause.ms, default=None)
    accounts = []
    for index, answer in enumerate(heard.outputs or [Output((), "")] * question.choices):
        pause = longest if not index else None
        accounts.append(
            StreamOutcome(
                name=f"{number}.{index}",
                reference=_comparable(right, question.returns_token_ids),
                delivered=_comparable(answer, question.returns_token_ids),
                fault_kind=chaos.fault_by_node.get(pause.lost, pause.why) if pause else None,
                pause_ms=pause.ms if pause else None,
                error=(heard.error or heard.inconsistency) if not index else None,
            )
        )
    return accounts


def _comparable(answer: Output, has_ids: bool) -> Output:
    """Where no ids were asked for, the characters are counted in their place."""
    return answer if has_ids else Output(tuple(map(ord, answer.text)), answer.text)


def _first_difference(account: StreamOutcome) -> str:
    right, got = account.reference, account.delivered
    shorter = min(len(right.token_ids), len(got.token_ids))
    at = next((n for n in range(shorter) if right.token_ids[n] != got.token_ids[n]), shorter)
    return f"{len(got.token_ids)} of {len(right.token_ids)}, different from {at} on; text ends {got.text[-40:]!r}"

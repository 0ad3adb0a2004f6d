"""The verdict on one run: every answer against the right one, and the certificate."""

from __future__ import annotations

from pathlib import Path

from local import certificate as certificates
from local.certificate import Answer, StreamOutcome
from local.chaos.client import Heard
from local.chaos.runner import Chaos


def certify(chaos: Chaos, seed: int, out: Path, duration_s: float) -> bool:
    """Write the certificate, show it and what is wrong; whether the promise was kept."""
    accounts = [account for at, heard in enumerate(chaos.heard) for account in _accounts(chaos, at, heard)]
    document = certificates.certificate(chaos.engine.name, seed, dict(chaos.done), accounts, duration_s)
    document["unanswerable"] = chaos.fleet.refused.to_json()
    chains = document.pop("chains")
    (out / "chains.json").write_text(certificates.to_json(chains))
    (out / "certificate.json").write_text(certificates.to_json(document))
    chaos.screen.document(certificates.to_json(document))
    for account in accounts:
        if not account.verified:
            heard = chaos.heard[int(account.name.partition(".")[0])]
            chaos.screen.say(f"stream {account.name}: {heard.question} {heard.pauses} {heard.error}", style="red")
            chaos.screen.say(f"  {_first_difference(account)}")
    answered = chaos.fleet.refused.answered
    if answered:
        chaos.screen.say(f"{answered} requests were answered that cannot be", style="bold red")
    kept = certificates.holds(document) and not answered
    word, style = ("kept", "bold green") if kept else ("BROKEN", "bold red")
    chaos.screen.say(f"{word}: an interruption costs a client a pause, never a token", style=style)
    return kept


def _accounts(chaos: Chaos, number: int, heard: Heard) -> list[StreamOutcome]:
    """One for each choice. The longest pause counts, with the strike on the node that the stream lost then."""
    question, right = heard.question, chaos.answers[heard.question.key]
    longest = max(heard.pauses, key=lambda pause: pause.ms, default=None)
    accounts = []
    for index, answer in enumerate(heard.answers or [Answer((), "")] * question.choices):
        pause = longest if not index else None
        accounts.append(
            StreamOutcome(
                name=f"{number}.{index}",
                reference=_comparable(right, question.ids),
                delivered=_comparable(answer, question.ids),
                kind=chaos.struck_by.get(pause.lost, pause.why) if pause else None,
                pause_ms=pause.ms if pause else None,
                error=(heard.error or heard.odd) if not index else None,
            )
        )
    return accounts


def _comparable(answer: Answer, has_ids: bool) -> Answer:
    """Where no ids were asked for, the characters are counted in their place."""
    return answer if has_ids else Answer(tuple(map(ord, answer.text)), answer.text)


def _first_difference(account: StreamOutcome) -> str:
    right, got = account.reference, account.delivered
    shorter = min(len(right.ids), len(got.ids))
    at = next((n for n in range(shorter) if right.ids[n] != got.ids[n]), shorter)
    return f"{len(got.ids)} of {len(right.ids)}, different from {at} on; text ends {got.text[-40:]!r}"

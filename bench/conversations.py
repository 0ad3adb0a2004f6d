"""Generates the conversations of `bench.routing`, the same for every policy, and formats the results. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from sim.figures import spread

CHATS, TURNS = 36, 4
SYSTEM_CHARACTERS = 1_000
QUESTION_CHARACTERS = (200, 500)
ALONE = 72
ALONE_CHARACTERS = (500, 3_000)
THINKS_S = 0.3
"""Mean pause before a question."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz "
"""Of text that no tokenizer knows: a character is about a token."""


@dataclass(frozen=True)
class Question:
    """One question. entry: the number of its entry node; thinks_s: its client's pause before it."""

    question: str
    entry: int
    thinks_s: float


@dataclass(frozen=True)
class Conversation:
    """One client's conversation. system: the system prompt, "" without one."""

    system: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class RunResult:
    """One trace under one policy.

    seed: of the trace, and so its round; first_token_s: of every turn; requests_by_engine: turns, of all engines; read:
    prompt tokens that were looked up in the prefix caches; cached: those that were there; load_average: the machine's,
    of a minute, at the end.
    """

    clients: str
    seed: int
    policy: str
    first_token_s: tuple[float, ...]
    requests_by_engine: tuple[int, ...]
    read: int
    cached: int
    load_average: float

    @property
    def hit_rate(self) -> float:
        """The share of prompt tokens that were in a prefix cache, from 0 to 1."""
        return self.cached / self.read

    @property
    def first_token_p50_s(self) -> float:
        """The median time until the first token."""
        return spread(self.first_token_s).p50

    @property
    def first_token_p99_s(self) -> float:
        """The 99th percentile of the time until the first token."""
        return spread(self.first_token_s).p99

    @property
    def imbalance(self) -> float:
        """The requests of the busiest engine over the mean of all engines; 1.0 where all have the same number."""
        return max(self.requests_by_engine) * len(self.requests_by_engine) / sum(self.requests_by_engine)


def shared_prompt_trace(seed: int, entries: int) -> list[Conversation]:
    """Return conversations of one application: a shared system prompt, then different questions."""
    chance = random.Random(f"chats {seed}")  # noqa: S311 # the same for every policy
    system = _text(chance, SYSTEM_CHARACTERS)
    return [
        Conversation(system, tuple(_turn(chance, QUESTION_CHARACTERS, entries) for _ in range(TURNS)))
        for _ in range(CHATS)
    ]


def unrelated_trace(seed: int, entries: int) -> list[Conversation]:
    """Return prompts that share nothing."""
    chance = random.Random(f"unrelated {seed}")  # noqa: S311 # the same for every policy
    return [Conversation("", (_turn(chance, ALONE_CHARACTERS, entries),)) for _ in range(ALONE)]


def _turn(chance: random.Random, characters: tuple[int, int], entries: int) -> Question:
    question = _text(chance, chance.randint(*characters))
    return Question(question, chance.randrange(entries), chance.expovariate(1 / THINKS_S))


def _text(chance: random.Random, characters: int) -> str:
    return "".join(chance.choices(_LETTERS, k=characters))


def rows(results: Sequence[RunResult], baseline: str) -> list[list[str]]:
    """Format the results as rows of a table, one for each kind of client and policy.

    Returns:
        clients, policy, prompt tokens cached (%), first token at p50 and at p99 (each in seconds, then as a multiple of
        what the policy `baseline` had in the same round with the same clients), imbalance. Figures are the median of
        the rounds, and least-most.
    """
    told: dict[tuple[str, str], list[RunResult]] = {}
    for play in sorted(results, key=lambda play: play.clients):
        told.setdefault((play.clients, play.policy), []).append(play)
    others = {(play.clients, play.seed): play for play in results if play.policy == baseline}
    return [[*name, *_cells(rounds, others)] for name, rounds in told.items()]


def _cells(rounds: Sequence[RunResult], others: Mapping[tuple[str, int], RunResult]) -> list[str]:
    pairs = [(play, others[play.clients, play.seed]) for play in rounds if (play.clients, play.seed) in others]
    return [
        _middle([100 * play.hit_rate for play in rounds], 0),
        _middle([play.first_token_p50_s for play in rounds]),
        _middle([play.first_token_p50_s / other.first_token_p50_s for play, other in pairs]),
        _middle([play.first_token_p99_s for play in rounds]),
        _middle([play.first_token_p99_s / other.first_token_p99_s for play, other in pairs]),
        _middle([play.imbalance for play in rounds]),
    ]


def _middle(values: Sequence[float], digits: int = 2) -> str:
    if not values:
        return "-"
    middle, least, most = (f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least}-{most})"

"""What the clients of `bench.routing` say, the same for every policy, and what a play of it came to. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sim.figures import spread

CHATS, TURNS = 36, 4
SYSTEM_CHARACTERS = 1_000
QUESTION_CHARACTERS = (200, 500)
ALONE = 72
ALONE_CHARACTERS = (500, 3_000)
THINKS_S = 0.3
"""Before a question, on average."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz "
"""Of text that no tokenizer knows: a character is about a token."""


@dataclass(frozen=True)
class Turn:
    """entry: the number of the node that it comes in at; thinks_s: how long its client waits before it."""

    question: str
    entry: int
    thinks_s: float


@dataclass(frozen=True)
class Talk:
    """system: what it begins with, "" where that is its first question."""

    system: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Played:
    """first_token_s: of every turn; asked: turns by engine, of all engines; read: prompt tokens that were looked up in
    the prefix caches; cached: those that were there; load_average: the machine's, of a minute, at the end."""

    clients: str
    policy: str
    first_token_s: tuple[float, ...]
    asked: tuple[int, ...]
    read: int
    cached: int
    load_average: float

    @property
    def hit_rate(self) -> float:
        return self.cached / self.read

    @property
    def imbalance(self) -> float:
        """The engine that was asked most, over the mean."""
        return max(self.asked) * len(self.asked) / sum(self.asked)


def chats(seed: int, entries: int) -> list[Talk]:
    """Conversations of one application: a system prompt that all share, then questions of their own."""
    chance = random.Random(f"chats {seed}")  # noqa: S311 # the same for every policy
    system = _text(chance, SYSTEM_CHARACTERS)
    return [
        Talk(system, tuple(_turn(chance, QUESTION_CHARACTERS, entries) for _ in range(TURNS))) for _ in range(CHATS)
    ]


def unrelated(seed: int, entries: int) -> list[Talk]:
    """Prompts that share nothing."""
    chance = random.Random(f"unrelated {seed}")  # noqa: S311 # the same for every policy
    return [Talk("", (_turn(chance, ALONE_CHARACTERS, entries),)) for _ in range(ALONE)]


def _turn(chance: random.Random, characters: tuple[int, int], entries: int) -> Turn:
    question = _text(chance, chance.randint(*characters))
    return Turn(question, chance.randrange(entries), chance.expovariate(1 / THINKS_S))


def _text(chance: random.Random, characters: int) -> str:
    return "".join(chance.choices(_LETTERS, k=characters))


def rows(plays: Sequence[Played]) -> list[list[str]]:
    """clients, policy, prompt tokens cached, first token at p50 and p99, imbalance, load average.

    Figures are least-most of the rounds.
    """
    told: dict[tuple[str, str], list[Played]] = {}
    for play in sorted(plays, key=lambda play: play.clients):
        told.setdefault((play.clients, play.policy), []).append(play)
    return [[*name, *_cells(rounds)] for name, rounds in told.items()]


def _cells(rounds: Sequence[Played]) -> list[str]:
    first = [spread(play.first_token_s) for play in rounds]
    return [
        _range([100 * play.hit_rate for play in rounds], 1) + " %",
        _range([each.p50 for each in first], 2),
        _range([each.p99 for each in first], 2),
        _range([play.imbalance for play in rounds], 2),
        _range([play.load_average for play in rounds], 0),
    ]


def _range(values: Sequence[float], digits: int) -> str:
    least, most = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return least if least == most else f"{least}-{most}"

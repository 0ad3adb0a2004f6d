"""A model of a node's engine: it reads requests one after another, then generates side by side in a number of slots.

Not vLLM: just enough of it for routing and drains to have consequences. A prompt's prefix that the engine has read
before is not read again (prefix caching), while there is room for it; the least recently used is evicted first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from node_agent.core.node.status import Load
from sim.scheduler import Scheduler

SLOTS = 32
PREFILL_TOKENS_S = 4_000.0
TIME_PER_TOKEN_S = 0.03
CACHE_TOKENS = 150_000
"""About what an A10G has room for beside the weights of an 8B model."""


@dataclass
class Work:
    """One request. prefix: what it begins with (a conversation); context: tokens to be read; remaining: to be made.

    begun: is told of its first token; ended: of its last one; shared, shared_tokens: the beginning of that beginning,
    which other conversations have, too (a system prompt).
    """

    prefix: int
    context: int
    remaining: int
    begun: Callable[[Work], None]
    ended: Callable[[Work], None]
    shared: int = 0
    shared_tokens: int = 0
    came_at: float = 0.0
    began_at: float | None = None
    generation: int = 0
    cached: int = 0


@dataclass
class Engine:
    """waiting: those without a slot; running: those with one."""

    scheduler: Scheduler
    slots: int = SLOTS
    prefill_tokens_s: float = PREFILL_TOKENS_S
    running: dict[int, Work] = field(default_factory=dict)
    waiting: deque[Work] = field(default_factory=deque)
    read_until: float = 0.0
    tokens_read: int = 0
    tokens_cached: int = 0
    _cache: OrderedDict[int, int] = field(default_factory=OrderedDict)
    _cached: int = 0

    @property
    def load(self) -> Load:
        """The load as vLLM's metrics would have it; the KV cache has the prompts of the running requests only."""
        used = sum(work.context for work in self.running.values()) / CACHE_TOKENS
        return Load(len(self.running), len(self.waiting), min(0.97, used), TIME_PER_TOKEN_S, self.prefill_tokens_s)

    @property
    def queue_s(self) -> float:
        """How long a new prompt waits until the engine begins to read it, in seconds."""
        return max(0.0, self.read_until - self.scheduler.now)

    def submit(self, work: Work) -> None:
        """Accept a request: it begins at once if a slot is free, else it waits, first come, first served."""
        work.came_at = self.scheduler.now
        if len(self.running) < self.slots:
            self._start(work)
        else:
            self.waiting.append(work)

    def _start(self, work: Work) -> None:
        work.generation += 1
        self.running[id(work)] = work
        shared = min(work.shared_tokens, self._look_up(work.shared))
        work.cached = min(work.context, max(shared, self._look_up(work.prefix)))
        self.tokens_read += work.context
        self.tokens_cached += work.cached
        self.read_until = (
            max(self.scheduler.now, self.read_until) + (work.context - work.cached) / self.prefill_tokens_s
        )
        self._remember(work.shared, work.shared_tokens)
        self._remember(work.prefix, work.context)
        self.scheduler.at(self.read_until, self._begin, work, work.generation)

    def _begin(self, work: Work, generation: int) -> None:
        if self.running.get(id(work)) is not work or generation != work.generation:
            return
        work.began_at = self.scheduler.now
        work.begun(work)
        self.scheduler.after(work.remaining * TIME_PER_TOKEN_S, self._end, work, generation)

    def _end(self, work: Work, generation: int) -> None:
        if self.running.get(id(work)) is not work or generation != work.generation:
            return
        self._remember(work.prefix, work.context + work.remaining)
        self.remove(work)
        work.ended(work)

    def generated_tokens(self, work: Work) -> int:
        """Return how many tokens a request has since it last began; 0 before its first token."""
        if work.began_at is None:
            return 0
        return min(work.remaining, int((self.scheduler.now - work.began_at) / TIME_PER_TOKEN_S))

    def remove(self, work: Work) -> None:
        """Remove a request, ended or not; a waiting one gets its slot."""
        if self.running.pop(id(work), None) is None:
            if work in self.waiting:
                self.waiting.remove(work)
            return
        while self.waiting and len(self.running) < self.slots:
            self._start(self.waiting.popleft())

    def hand_off(self, work: Work) -> None:
        """Remove a request that continues elsewhere, with the tokens that it has so far."""
        made = self.generated_tokens(work)
        self.remove(work)
        work.context += made
        work.remaining -= made
        work.began_at = None

    def _look_up(self, prefix: int) -> int:
        tokens = self._cache.get(prefix, 0)
        if tokens:
            self._cache.move_to_end(prefix)
        return tokens

    def _remember(self, prefix: int, tokens: int) -> None:
        if not tokens:
            return
        self._cached += tokens - self._cache.pop(prefix, 0)
        self._cache[prefix] = tokens
        while self._cached > CACHE_TOKENS:
            self._cached -= self._cache.popitem(last=False)[1]

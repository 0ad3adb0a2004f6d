"""Run a node's lifecycle as a state machine: events in, effects out.

    STARTING --EngineReady--> READY --RebalanceSeen, ClockOff--> AT_RISK --ClockRight--> READY
       ^  |                     |                         |
       |  +--- EngineLost <-----+-------------------------+
       |
    any of these --NoticeSeen, TermRequested--> DRAINING --no streams left, or the deadline--> GONE
    STARTING --EngineGaveUp--> GONE

Rules kept here:

* a draining node never accepts requests again; a shorter deadline replaces a longer one, never the other way;
* a notice leaves no more than NOTICE_LEAD_S from when the first one was seen, and one whose deadline cannot be true
  leaves exactly that: its time is EC2's, and this node's clock may differ (`bounded_deadline`);
* effects are ordered: a cordon is published to readiness and peers before any stream is handed off; clients are closed
  before the engine stops; the tags are removed before the process ends;
* GONE is final: later events change nothing.

The reactor passes one event at a time. Instants are unix seconds of a clock that does not jump, and are part of the
events.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from node_agent.contract.aws_events import NOTICE_LEAD_S, InterruptionNotice
from node_agent.contract.errors import InvalidTransition
from node_agent.contract.states import NodeState

CLOSE_CLIENTS_BEFORE_S = 5.0
"""When before the deadline clients that are still connected here are closed, to resume elsewhere."""

RETIRE_BEFORE_S = 3.0
"""When before the deadline the engine stops and the tags are removed, whatever still runs: tags take a call to EC2."""

EXIT_DRAINED = 0
EXIT_ENGINE_GAVE_UP = 69  # EX_UNAVAILABLE of sysexits.h: a restart by systemd may help
EXIT_CONFIGURATION = 78  # EX_CONFIG: a restart ends the same, so systemd does not try (synkti.service)


@dataclass(frozen=True)
class EngineReady:
    """The engine answers and was tested: it may receive requests."""

    at: float


@dataclass(frozen=True)
class EngineLost:
    """A ready engine ended or is stuck; it is started again, unless that failed too often (EngineGaveUp)."""

    at: float
    reason: str


@dataclass(frozen=True)
class EngineGaveUp:
    """The engine ended more often than restarts are allowed, or its settings cannot work (is_permanent)."""

    at: float
    reason: str
    is_permanent: bool = False


@dataclass(frozen=True)
class NoticeSeen:
    """EC2 terminates the instance at `deadline`, as in the notice: any number, see `bounded_deadline`."""

    at: float
    deadline: float


@dataclass(frozen=True)
class RebalanceSeen:
    """IMDS has a rebalance recommendation: the node is at risk from then on."""

    at: float


@dataclass(frozen=True)
class ClockOff:
    """Several peers agree that this node's clock is wrong (`core/node/peer_clocks`)."""

    at: float


@dataclass(frozen=True)
class ClockRight:
    """The peers agree with this node's clock again."""

    at: float


@dataclass(frozen=True)
class TermRequested:
    """SIGTERM: a deployment or a scale-in; the drain has its own deadline."""

    at: float
    deadline: float


@dataclass(frozen=True)
class Tick:
    """Time passed. streams: requests at this engine and clients connected here, together."""

    at: float
    streams: int


Event = (
    EngineReady | EngineLost | EngineGaveUp | NoticeSeen | RebalanceSeen | ClockOff | ClockRight | TermRequested | Tick
)


@dataclass(frozen=True)
class Publish:
    """Publish the new state to readiness, peers, tags and the record, in this order. step: its name in the timeline."""

    state: NodeState
    step: str
    source: str
    at: float
    deadline: float | None = None


@dataclass(frozen=True)
class MoveStreams:
    """Plan the streams at this engine against the deadline, and hand off those that cannot finish."""

    deadline: float


@dataclass(frozen=True)
class CloseClients:
    """Hand off every stream, and end the clients' connections with an error that names where to resume."""


@dataclass(frozen=True)
class Retire:
    """Stop the engine, untag, close the servers, end the process."""

    exit_code: int
    reason: str


Effect = Publish | MoveStreams | CloseClients | Retire


def service_status(state: NodeState, streams: int) -> str:
    """Return whether the node serves, as text for systemd and the boot scripts, which do not stop it while "serving".

    streams: requests at this engine and clients connected here, together.
    """
    return f"{'serving' if state.takes_requests or streams else 'not serving'}: {state.value}"


CLOCKS_AGREE_S = 2.0
"""IMDS has its time in whole seconds; within this difference this node's clock is the finer one."""

IMMINENT_S = 1.0
"""The time that remains where EC2's own clock is past the deadline of its notice."""


def to_local_time(notice: InterruptionNotice, now: float) -> float:
    """Return a notice's deadline by this node's clock, in unix seconds; unchanged where the notice has no own time.

    now: this node's unix seconds when the notice was read.
    """
    if notice.as_of is None:
        return notice.deadline
    here = now if abs(now - notice.as_of) <= CLOCKS_AGREE_S else notice.as_of
    remaining_s = notice.deadline - here
    return now + (IMMINENT_S if -NOTICE_LEAD_S < remaining_s <= 0.0 else remaining_s)


def bounded_deadline(deadline: float, seen_at: float, first_seen_at: float) -> float:
    """Return when EC2 terminates the instance, by this node's clock. All instants are unix seconds.

    EC2 gives NOTICE_LEAD_S and never more (the user guide's page on spot-instance-termination-notices), so the first
    read of a notice bounds it, whatever the clocks show. A deadline that has passed, that is further away than that, or
    that is no number, comes from another clock than this node's: then the bound is the deadline.

    deadline: of the notice; seen_at: when it was read; first_seen_at: when the first notice was read.
    """
    bound = first_seen_at + NOTICE_LEAD_S
    return min(bound, deadline) if 0.0 < deadline - seen_at <= NOTICE_LEAD_S else bound


class Lifecycle:
    """The state machine. `state` is what the node publishes; `recent` makes a bug report replayable.

    linger_s: how long a draining node stays at least, where its deadline allows it, to forward late requests.
    """

    def __init__(self, linger_s: float = 0.0) -> None:
        self._linger_s = linger_s
        self._stays_until = 0.0
        self.state = NodeState.STARTING
        self.deadline: float | None = None
        self.recent: deque[Event] = deque(maxlen=64)
        self._noticed_at: float | None = None
        self._recommended = False
        self._clock_off = False
        self._clients_closed = False

    def handle(self, event: Event) -> tuple[Effect, ...]:
        """Return the effects of one event, in the order of their execution."""
        self.recent.append(event)
        if self.state is NodeState.GONE:
            return ()
        match event:
            case EngineReady():
                return self._engine_ready(event.at)
            case EngineLost():
                return self._engine_lost(event)
            case EngineGaveUp():
                if event.is_permanent:
                    return self._gone(EXIT_CONFIGURATION, f"the engine cannot start: {event.reason}")
                return self._gone(EXIT_ENGINE_GAVE_UP, f"the engine cannot be kept running: {event.reason}")
            case RebalanceSeen():
                self._recommended = True
                return self._risk(event.at, "rebalance-recommended", "imds")
            case ClockOff():
                self._clock_off = True
                return self._risk(event.at, "clock-off", "agent")
            case ClockRight():
                self._clock_off = False
                return self._risk(event.at, "clock-right", "agent")
            case NoticeSeen():
                return self._notice(event)
            case TermRequested():
                return self._drain(event.at, event.deadline, "termination-requested", "agent")
            case Tick():
                return self._tick(event)
        raise InvalidTransition(f"unknown event after {list(self.recent)}")

    def _engine_ready(self, at: float) -> tuple[Effect, ...]:
        if self.state is not NodeState.STARTING:
            return ()
        self.state = self._serving_state()
        return (Publish(self.state, "ready", "agent", at),)

    def _serving_state(self) -> NodeState:
        return NodeState.AT_RISK if self._recommended or self._clock_off else NodeState.READY

    def _engine_lost(self, event: EngineLost) -> tuple[Effect, ...]:
        if not self.state.takes_requests:
            return ()
        self.state = NodeState.STARTING
        return (Publish(self.state, "engine-lost", "agent", event.at),)

    def _risk(self, at: float, step: str, source: str) -> tuple[Effect, ...]:
        """Enter or leave AT_RISK, after its cause appeared or ended."""
        state = self._serving_state()
        if not self.state.takes_requests or self.state is state:
            return ()
        self.state = state
        return (Publish(state, step, source, at),)

    def _notice(self, event: NoticeSeen) -> tuple[Effect, ...]:
        if self._noticed_at is None:
            self._noticed_at = event.at
        deadline = bounded_deadline(event.deadline, event.at, self._noticed_at)
        return self._drain(event.at, deadline, "notice-seen", "imds")

    def _drain(self, at: float, deadline: float, step: str, source: str) -> tuple[Effect, ...]:
        if self.deadline is not None and deadline >= self.deadline:
            return ()
        if self.deadline is None:
            self._stays_until = at + self._linger_s
        self.deadline = deadline
        self.state = NodeState.DRAINING
        return (Publish(self.state, step, source, at, deadline), MoveStreams(deadline))

    def _tick(self, event: Tick) -> tuple[Effect, ...]:
        if self.state is not NodeState.DRAINING or self.deadline is None:
            return ()
        remaining_s = self.deadline - event.at
        if event.streams == 0 and (event.at >= self._stays_until or remaining_s <= CLOSE_CLIENTS_BEFORE_S):
            return self._gone(EXIT_DRAINED, "drained")
        if remaining_s <= RETIRE_BEFORE_S:
            return self._gone(EXIT_DRAINED, f"the deadline, with {event.streams} streams open")
        if remaining_s <= CLOSE_CLIENTS_BEFORE_S:
            if self._clients_closed:
                return ()
            self._clients_closed = True
            return (CloseClients(),)
        return (MoveStreams(self.deadline),)

    def _gone(self, exit_code: int, reason: str) -> tuple[Effect, ...]:
        self.state = NodeState.GONE
        return (CloseClients(), Retire(exit_code, reason))

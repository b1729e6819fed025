"""What is observed of one target: readings with their state, pods by state, work rates. Values only; no clock, no I/O."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Freshness(StrEnum):
    """How far a reading may be trusted. Only a fresh one may lower a fleet; unknown is never zero."""

    FRESH = "fresh"
    PARTIAL = "partial"  # fresh, but the source says that something is missing: the truth may be higher
    STALE = "stale"  # samples exist, but the newest is older than the age bound (or from the future)
    EMPTY = "empty"  # the source answered, with nothing for this target
    ERROR = "error"  # the source did not answer, or answered nonsense (not a number, duplicate series)

    @property
    def may_raise(self) -> bool:
        """Whether a wish for more may rest on it."""
        return self in (Freshness.FRESH, Freshness.PARTIAL)


class SignalKind(StrEnum):
    """What a signal measures, and therefore which law reads it (docs/autoscaling.md has one row per kind)."""

    WORK = "work"  # GPU seconds per second, from token counters
    QUEUE = "queue"  # requests waiting
    RUNNING = "running"  # requests running and waiting
    KV_CACHE = "kvCache"  # mean share of the KV cache in use, 0-1: a capped gauge
    GPU_UTILIZATION = "gpuUtilization"  # mean share of time a kernel ran, 0-1: a capped gauge
    TIME_TO_FIRST_TOKEN = "timeToFirstToken"  # a quantile, seconds
    INTER_TOKEN_LATENCY = "interTokenLatency"  # a quantile, seconds
    REQUEST_LATENCY = "requestLatency"  # a quantile or mean, seconds
    QUERY = "query"  # any PromQL; one number for the whole target


LATENCIES = frozenset(
    {SignalKind.TIME_TO_FIRST_TOKEN, SignalKind.INTER_TOKEN_LATENCY, SignalKind.REQUEST_LATENCY},
)


@dataclass(frozen=True, slots=True)
class Reading:
    """One signal of one target at one tick.

    `value` is a total over the pods that report for `queue` and `running`, a mean over them for capped gauges, the
    quantile over all their requests for latencies, and the query's own number for `query`.
    """

    name: str
    state: Freshness
    value: float = 0.0
    age_seconds: float = 0.0
    missing: int = 0
    """Ready pods that do not report: as busy as the rest when it comes to lowering."""
    detail: str = ""
    """Why it is not fresh, in words for a person."""


@dataclass(frozen=True, slots=True)
class Work:
    """Token rates over all pods of a target and what a token costs on its hardware.

    Rates are per second, each over the short and over the long averaging time (`LawConstants`). Costs are GPU seconds
    per token (`autoscaler.law.sizing.prices`); 0 means that they are not known yet.
    """

    state: Freshness
    prompt_tokens_per_second: tuple[float, float] = (0.0, 0.0)
    output_tokens_per_second: tuple[float, float] = (0.0, 0.0)
    waiting_prompt_tokens: float = 0.0
    waiting: float = 0.0
    running: float = 0.0
    seconds_per_prompt_token: float = 0.0
    seconds_per_output_token: float = 0.0
    requests_per_second: tuple[float, float] | None = None
    """Arrivals: requests that finished plus the growth of those inside. Where known, demand follows from it rather than
    from the tokens done, which stop growing when the replicas are full."""
    running_growth: float = 0.0
    waiting_growth: float = 0.0
    """Requests per second by which those running and waiting grow, over the short averaging time."""
    tokens_at_end: bool = False
    """Tokens are counted when a request ends."""
    full_batch: float = 0.0
    """Requests in a replica that is full (`autoscaler.law.sizing.prices`); 0: not known."""
    prompt_tokens_per_request: float = 0.0
    output_tokens_per_request: float = 0.0
    prompt_grain: float = 0.0
    """Tokens of the prompt that a prompt token belongs to in the mean, E[p^2] / E[p]; 0: not known."""
    answers_per_second: float = 0.0
    """Requests over the long averaging time whose latency is known; 0: none, or no objective."""
    late_share: float = 0.0
    """Of them, past the objective."""
    age_seconds: float = 0.0
    missing: int = 0
    detail: str = ""
    unpriced: str = ""
    """Why a token has no price, in words for a person; empty where it has one."""

    @property
    def seconds_per_request(self) -> float:
        """GPU seconds of a mean request; 0 where the lengths are not known."""
        return (
            self.prompt_tokens_per_request * self.seconds_per_prompt_token
            + self.output_tokens_per_request * self.seconds_per_output_token
        )

    @property
    def known(self) -> bool:
        """Whether tokens can be turned into GPU seconds."""
        return self.seconds_per_prompt_token > 0 and self.seconds_per_output_token > 0

    @property
    def flows(self) -> bool:
        """Whether tokens were done lately: an engine that does any does not hang."""
        return self.state is Freshness.FRESH and self.prompt_tokens_per_second[0] + self.output_tokens_per_second[0] > 0


@dataclass(frozen=True, slots=True)
class PodFacts:
    """The target's own pods by state; foreign pods that its selector happens to match are not in here."""

    ready: int = 0
    starting: tuple[float, ...] = ()
    """Ages in seconds of pods that have a node and are not ready yet."""
    unschedulable: tuple[float, ...] = ()
    """Ages in seconds of pods without a node."""
    crash_looping: int = 0
    terminating: tuple[float, ...] = ()
    """Seconds since the delete of pods that still drain."""
    started_seconds: tuple[float, ...] = ()
    """Start-up times (node given to ready) of pods that became ready since the last tick."""
    not_created: int = 0
    """Replicas asked for that have no pod, by the controller's own word or because none has come for long (a quota, an admission
    webhook): they are no pods on the way."""
    awaited: int = 0
    """Replicas whose pods have not come yet, while it is too soon to say more."""
    why_not_created: str = ""
    """In the controller's words."""
    unready_in_flight: float = 0.0
    """Requests that pods report which have a node and are not ready: new ones have none, overloaded ones have."""

    @property
    def alive(self) -> int:
        """All but those that leave."""
        return self.ready + len(self.starting) + len(self.unschedulable) + self.crash_looping


@dataclass(frozen=True, slots=True)
class Capacity:
    """The scheduler's answer to "how many more of this pod fit?"."""

    fits: int
    detail: str = ""


GATEWAY: Final = "gateway"
"""The name of what waits in the gateway, among the signals."""
NO_WORKERS: Final = "NoWorkers"
"""Reason of a gateway that says nothing of a target without pods, and keeps no requests for it."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the gateway in front of a target says: requests that are in no pod yet."""

    state: Freshness
    waiting: float = 0.0
    """Requests that wait in it."""
    seconds_per_request: float = 0.0
    """GPU seconds of a mean request, as learned; 0: not known."""
    full_batch: float = 0.0
    """Requests in a replica that is full; 0: not known."""
    decode_seconds_per_request: float = 0.0
    """Of the seconds of a request, those for its output tokens: they are done side by side, one of each request in an iteration."""
    age_seconds: float = 0.0
    reason: str = ""
    """One word for why nothing is known; empty while it is."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What the schedule of an object asks for now, or next."""

    window: str
    """Name of the open window that asks for most; of the one that opens next while none is open."""
    replicas: int
    """Fewest replicas within it."""
    is_open: bool
    until: str | None = None
    """When it closes (opens), in words; None: never."""

    @property
    def floor(self) -> int:
        """Fewest replicas now."""
        return self.replicas if self.is_open else 0


class Rollout(StrEnum):
    """What the target itself is doing."""

    SETTLED = "settled"
    PROGRESSING = "progressing"  # two revisions at once
    PAUSED = "paused"
    FAILED = "failed"  # given up by its controller; people have to act


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that one decision rests on."""

    replicas: int
    """What the target's scale asks for now."""
    pods: PodFacts = PodFacts()
    readings: tuple[Reading, ...] = ()
    """One per entry of `TargetSpec.signals` except `work`, found by name."""
    work: Work | None = None
    utilisation: Reading | None = None
    """GPU utilisation as a veto for engines that queue; read even where no signal asks for it."""
    activation: Reading | None = None
    """The signal that outlives the pods."""
    gateway: Gateway | None = None
    """None: the object names none."""
    scheduled: Scheduled | None = None
    """None: the object has no schedule."""
    capacity: Capacity | None = None
    """None: not known, which does not limit."""
    stalled: bool = False
    """Every pod with requests inside does no tokens, and no pod does any; only where counters tell step by step."""
    gpus_per_replica: float = 1.0
    rollout: Rollout = Rollout.SETTLED
    rollout_detail: str = ""
    """What its controller says of it."""

"""The usage report: from counters of the agents to hours, energy, carbon, money and tokens per project. Pure.

Sums are differences of the agents' own counters, taken scrape by scrape, so that nothing is extrapolated: for every card,
what pods, idle and unattributed lines add up to is what the card drew. A window is from the last scrape at or before its start to the
last one at or before its end, which makes adjacent windows add up too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from agent.energy.tariff import Tariff

_JOULES_PER_KWH: Final = 3.6e6
_SECONDS_PER_HOUR: Final = 3600.0

_NOTABLE_KWH: Final = 0.0005

IDLE: Final = "(idle)"
UNATTRIBUTED: Final = "(unattributed)"
TOTAL: Final = "(total)"


class Grouping(StrEnum):
    """What a line of the report stands for."""

    PROJECT = "project"
    NAMESPACE = "namespace"
    MODEL = "model"


class CardKey(NamedTuple):
    """A physical card."""

    node: str
    card: str
    model: str


class PodKey(NamedTuple):
    """A pod on a card."""

    card: CardKey
    namespace: str
    pod: str
    project: str


class CounterSum:
    """The increase of one counter within a window, from its samples in order of time.

    A value below the one before is a restart from zero. A first sample after the window's start counts from zero only where
    `born` says that the counter did not exist before; else it is merely the first one seen.
    """

    __slots__ = ("_last", "_start", "increase")

    def __init__(self, start: float) -> None:
        self._start = start
        self._last: float | None = None
        self.increase = 0.0

    def add(self, at: float, value: float, *, born: bool = False) -> None:
        """Take in a sample. `born` matters for the first one only."""
        if at > self._start:
            if self._last is None:
                self.increase += value if born else 0.0
            else:
                self.increase += value - self._last if value >= self._last else value
        self._last = value


@dataclass(slots=True)
class CardUse:
    """One card over the window. Energies in joules by source (measured, estimated); times in seconds."""

    energy: dict[str, float] = field(default_factory=dict)
    idle_energy: dict[str, float] = field(default_factory=dict)
    unattributed_energy: dict[str, float] = field(default_factory=dict)
    observed: dict[str, float] = field(default_factory=dict)
    """By how the energy of that time is known: measured, estimated, unknown."""
    device_energy: float = 0.0
    """By the driver's own counter, which also runs while no agent looks; 0 where there is none."""
    unreserved: float = 0.0
    busy: float = 0.0
    unattributed_busy: float = 0.0
    first_seen: float = float("inf")

    @property
    def unseen_energy(self) -> float:
        """Drawn while no agent was looking: by the driver's counter, beyond what the agents booked."""
        return max(self.device_energy - sum(self.energy.values()), 0.0)


@dataclass(slots=True)
class PodUse:
    """One pod on one card over the window."""

    energy: dict[str, float] = field(default_factory=dict)
    reserved: float = 0.0
    busy: float = 0.0


@dataclass(slots=True)
class Usage:
    """What was read from Prometheus for one window (Unix seconds)."""

    start: float
    end: float
    cards: dict[CardKey, CardUse] = field(default_factory=dict)
    pods: dict[PodKey, PodUse] = field(default_factory=dict)
    tokens: dict[tuple[str, str], float] = field(default_factory=dict)
    """(namespace, pod) -> tokens, prompt and generated, where the engine reports them."""
    jobs_left_out: set[str] = field(default_factory=set)
    """Scrape jobs that spoke of pods without being believed."""


@dataclass(slots=True)
class Line:
    """One line of the report. None stands for "not known", never for zero."""

    name: str
    gpu_hours_reserved: float = 0.0
    gpu_hours_busy: float | None = 0.0
    kwh_measured: float = 0.0
    kwh_estimated: float = 0.0
    cost: float | None = None
    tokens: float | None = None
    coverage: float | None = None
    """Observed part of the time of the cards the line used, 0 to 1; time without an energy figure counts as not observed."""
    kg_co2e: float = 0.0

    @property
    def kwh(self) -> float:
        """At the cards, before PUE."""
        return self.kwh_measured + self.kwh_estimated

    @property
    def energy_source(self) -> str:
        """`measured`, `estimated`, or how much of a mixture was estimated; `none` for a line without energy."""
        if self.kwh <= 0:
            return "none"
        share = self.kwh_estimated / self.kwh
        if share == 0:
            return "measured"
        return "estimated" if share == 1 else f"{share:.1%} estimated"

    @property
    def idle_share(self) -> float | None:
        """The part of the reserved time in which no kernel of the line's pods ran."""
        if self.gpu_hours_busy is None or self.gpu_hours_reserved <= 0:
            return None
        return max(1 - self.gpu_hours_busy / self.gpu_hours_reserved, 0.0)

    @property
    def kwh_per_1000_tokens(self) -> float | None:
        """None without tokens."""
        return self.kwh * 1000 / self.tokens if self.tokens else None

    @property
    def cost_per_1000_tokens(self) -> float | None:
        """None without tokens or price."""
        return self.cost * 1000 / self.tokens if self.tokens and self.cost is not None else None


@dataclass(slots=True)
class Report:
    """Lines of pods by name, then idle, unattributed and total, and what the figures rest on."""

    by: Grouping
    start: float
    end: float
    tariff: Tariff
    lines: list[Line]
    idle: Line
    unattributed: Line
    total: Line
    """Read from the devices, not added up from the lines above."""
    notes: list[str] = field(default_factory=list)

    def all_lines(self) -> list[Line]:
        """In the order of the report."""
        return [*self.lines, self.idle, self.unattributed, self.total]


def build_report(usage: Usage, by: Grouping, tariff: Tariff) -> Report:
    """Group what was read. Prices apply to reserved card hours; what nobody reserved is the idle line's."""
    coverage = {key: _coverage(card, usage) for key, card in usage.cards.items()}
    lines: dict[str, Line] = {}
    weights: dict[str, list[tuple[float, float]]] = {}
    prices = _Prices(tariff)
    for pod, use in sorted(usage.pods.items()):
        name = _name_of(pod, by)
        line = lines.setdefault(name, Line(name))
        hours = use.reserved / _SECONDS_PER_HOUR
        line.gpu_hours_reserved += hours
        line.gpu_hours_busy = (line.gpu_hours_busy or 0.0) + use.busy / _SECONDS_PER_HOUR
        _add_energy(line, use.energy)
        prices.charge(line, hours, pod.card.model)
        weights.setdefault(name, []).append((hours, coverage.get(pod.card, 0.0)))
    unmatched = _add_tokens(lines, usage, by)
    for name, line in lines.items():
        line.coverage = _weighted(weights[name])
    report = Report(
        by,
        usage.start,
        usage.end,
        tariff,
        [lines[name] for name in sorted(lines)],
        *_device_lines(usage, coverage, prices),
        notes=prices.notes(),
    )
    unseen = sum(card.unseen_energy for card in usage.cards.values()) / _JOULES_PER_KWH
    if unseen > _NOTABLE_KWH:
        report.notes.append(f"{unseen:.3f} kWh were drawn while no agent was looking; they are unattributed")
    if unmatched > 0:
        report.notes.append(
            f"{unmatched:.0f} tokens come from pods that held no card in this window and are in no line"
        )
    if usage.jobs_left_out:
        names = ", ".join(sorted(usage.jobs_left_out))
        report.notes.append(
            f"what scrape job {names} says of pods is left out: only the jobs of --device-jobs may speak of other pods"
        )
    report.total.tokens = sum(line.tokens for line in report.lines if line.tokens) or None
    for line in report.all_lines():
        line.kg_co2e = tariff.kilograms_co2e(line.kwh)
    return report


class _Prices:
    """Charges hours, and remembers the models without a price."""

    def __init__(self, tariff: Tariff) -> None:
        self._tariff = tariff
        self._unpriced: set[str] = set()

    def charge(self, line: Line, hours: float, model: str) -> None:
        price = self._tariff.price_of(model)
        if price is not None:
            line.cost = (line.cost or 0.0) + hours * price
        elif hours > 0:
            self._unpriced.add(model)

    def notes(self) -> list[str]:
        if not self._unpriced:
            return []
        return [f"no price is stated for {', '.join(sorted(self._unpriced))}: costs leave them out"]


def _device_lines(usage: Usage, coverage: Mapping[CardKey, float], prices: _Prices) -> tuple[Line, Line, Line]:
    idle, unattributed, total = Line(IDLE, gpu_hours_busy=None), Line(UNATTRIBUTED), Line(TOTAL)
    expected = [
        (max(usage.end - max(card.first_seen, usage.start), 0.0), coverage[key]) for key, card in usage.cards.items()
    ]
    for key, card in sorted(usage.cards.items()):
        unreserved = card.unreserved / _SECONDS_PER_HOUR
        idle.gpu_hours_reserved += unreserved
        _add_energy(idle, card.idle_energy)
        prices.charge(idle, unreserved, key.model)
        unattributed.gpu_hours_busy = (unattributed.gpu_hours_busy or 0.0) + card.unattributed_busy / _SECONDS_PER_HOUR
        _add_energy(unattributed, card.unattributed_energy)
        _add_energy(unattributed, {"measured": card.unseen_energy})
        observed = sum(card.observed.values()) / _SECONDS_PER_HOUR
        total.gpu_hours_reserved += observed
        total.gpu_hours_busy = (total.gpu_hours_busy or 0.0) + card.busy / _SECONDS_PER_HOUR
        _add_energy(total, card.energy)
        _add_energy(total, {"measured": card.unseen_energy})
        prices.charge(total, observed, key.model)
    total.coverage = idle.coverage = unattributed.coverage = _weighted(expected)
    return idle, unattributed, total


def _name_of(pod: PodKey, by: Grouping) -> str:
    if by is Grouping.PROJECT:
        return pod.project
    return pod.namespace if by is Grouping.NAMESPACE else pod.card.model


def _add_energy(line: Line, joules: Mapping[str, float]) -> None:
    line.kwh_measured += joules.get("measured", 0.0) / _JOULES_PER_KWH
    line.kwh_estimated += joules.get("estimated", 0.0) / _JOULES_PER_KWH


def _add_tokens(lines: Mapping[str, Line], usage: Usage, by: Grouping) -> float:
    """Book tokens on the line of their pod (of the card it reserved longest); returns those of pods without a card."""
    homes: dict[tuple[str, str], tuple[float, str]] = {}
    for pod, use in sorted(usage.pods.items()):
        key = (pod.namespace, pod.pod)
        if key not in homes or use.reserved > homes[key][0]:
            homes[key] = (use.reserved, _name_of(pod, by))
    unmatched = 0.0
    for key, tokens in usage.tokens.items():
        if key in homes:
            line = lines[homes[key][1]]
            line.tokens = (line.tokens or 0.0) + tokens
        else:
            unmatched += tokens
    return unmatched


def _coverage(card: CardUse, usage: Usage) -> float:
    expected = usage.end - max(card.first_seen, usage.start)
    known = card.observed.get("measured", 0.0) + card.observed.get("estimated", 0.0)
    return min(known / expected, 1.0) if expected > 0 else 0.0


def _weighted(parts: Iterable[tuple[float, float]]) -> float | None:
    parts = list(parts)
    weight = sum(part for part, _ in parts)
    return sum(part * value for part, value in parts) / weight if weight > 0 else None

"""Books each card's energy and time to the pods that caused it. Pure; all sums are exact integers (millijoules, milliseconds).

Energy of an interval is the driver's counter where there is one (measured), else power times time (estimated). Its idle part,
at most idle power times time, goes to pods by the share of the card they reserve, whether they use it or not; what nobody
reserves is the card's own idle line. The active part goes by measured use (multiprocessor time per process); use by processes
outside any pod is the card's unattributed line. The counter is read less often than the rest: what it has counted since goes by
the use in all of that time. For every card: total = pods + idle + unattributed. The two-part rule is that of
the GHG protocol's thinking on shared ICT and of Kepler's GPU model; memory held is no measure of power and is not used.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from agent.cards.reader import CardReading, Missing, Number, Reading, known
from agent.pods.index import PodKey

MEASURED: Final = "measured"
ESTIMATED: Final = "estimated"
UNKNOWN: Final = "unknown"

_HIGHEST_WATTS: Final = 5_000.0
"""A counter that rises faster is wrong: five times what the largest card of 2026 draws."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A pod that reserves a share (0 to 1) of a card."""

    pod: PodKey
    share: float


@dataclass(frozen=True, slots=True)
class Use:
    """What one pod, or everything outside pods (`pod` None), ran on a card."""

    pod: PodKey | None
    sm_ratio: Number = Missing.NOT_SUPPORTED


Shares: TypeAlias = tuple[list[int], int]
"""Amounts per weight, and the rest."""


def apportion(total: int, weights: Sequence[float], rest: float = 0.0) -> Shares:
    """Split `total` by weights, with a remainder of weight `rest`, so that the parts add up to it exactly.

    Largest remainder first, ties to the earlier one. With no weight at all everything is rest.
    """
    everything = sum(weights) + rest
    if total <= 0 or everything <= 0:
        return [0] * len(weights), max(total, 0)
    exact = [total * weight / everything for weight in (*weights, rest)]
    parts = [min(int(value), total) for value in exact]
    order = sorted(range(len(parts)), key=lambda at: (parts[at] - exact[at], at))
    for at in order[: max(total - sum(parts), 0)]:
        parts[at] += 1
    surplus = sum(parts) - total  # only by rounding of very large numbers
    parts[-1] -= surplus
    return parts[:-1], parts[-1]


@dataclass(slots=True)
class PodBook:
    """What a pod caused on one card."""

    energy_millijoules: dict[str, int] = field(default_factory=lambda: {MEASURED: 0, ESTIMATED: 0})
    """By how it is known."""
    reserved_milliseconds: int = 0
    """Card time reserved: share times time."""
    busy_milliseconds: int = 0
    """Card time with its kernels running."""
    seen_at: float = 0.0


@dataclass(slots=True)
class _Pending:
    """What is known of the time since the energy counter was last read. Weights are shares times seconds."""

    seconds: float = 0.0
    milliseconds: int = 0
    strangers: bool = False
    """Whether there was a gap, of which nobody knows who used the card in it."""
    reserved: dict[PodKey, float] = field(default_factory=dict)
    unreserved: float = 0.0
    activity: dict[PodKey, float] = field(default_factory=dict)
    outside: float = 0.0

    def add(self, seconds: float, held: "Sequence[Holder]", weights: Mapping[PodKey, float], outside: float) -> None:
        for holder in held:
            self.reserved[holder.pod] = self.reserved.get(holder.pod, 0.0) + holder.share * seconds
        self.unreserved += _unreserved(held) * seconds
        for pod, weight in weights.items():
            self.activity[pod] = self.activity.get(pod, 0.0) + weight * seconds
        self.outside += outside * seconds


@dataclass(slots=True)
class CardBook:
    """What one card did in all, and what of it belongs to no pod."""

    model: str
    energy_millijoules: dict[str, int] = field(default_factory=lambda: {MEASURED: 0, ESTIMATED: 0})
    idle_millijoules: dict[str, int] = field(default_factory=lambda: {MEASURED: 0, ESTIMATED: 0})
    unattributed_millijoules: dict[str, int] = field(default_factory=lambda: {MEASURED: 0, ESTIMATED: 0})
    observed_milliseconds: dict[str, int] = field(default_factory=lambda: {MEASURED: 0, ESTIMATED: 0, UNKNOWN: 0})
    """Time under observation, by how the energy of that time is known."""
    unreserved_milliseconds: int = 0
    busy_milliseconds: int = 0
    unattributed_busy_milliseconds: int = 0
    pods: dict[PodKey, PodBook] = field(default_factory=dict)
    pending: _Pending = field(default_factory=_Pending)
    before: CardReading | None = None
    read_at: float = 0.0
    lowest_watts: float | None = None
    """Least power seen while no process was on the card."""


@dataclass(slots=True)
class Account:
    """The books of a node's physical cards. Feed it every reading in order."""

    longest_gap_seconds: float
    """Readings further apart than this say nothing about who used the card in between."""
    keep_finished_seconds: float = 600.0
    """How long a pod that is gone stays in the books, so that its last amounts are still collected."""
    idle_watts: Mapping[str, float] = field(default_factory=dict)
    """Idle power by card model; else the least power seen without a process, else 0."""
    cards: dict[str, CardBook] = field(default_factory=dict)
    counter_resets: int = 0
    clock_anomalies: int = 0
    gaps: int = 0

    def observe(
        self, reading: Reading, holders: Mapping[str, Sequence[Holder]], uses: Mapping[str, Sequence[Use] | Missing]
    ) -> None:
        """Book the time since the last reading. `holders` and `uses` are by physical card."""
        for card in reading.cards:
            if card.parent:
                continue
            book = self.cards.setdefault(card.id, CardBook(card.model))
            held = _normal(holders.get(card.id, ()))
            used = uses.get(card.id, Missing.NOT_AVAILABLE)
            for holder in held:
                book.pods.setdefault(holder.pod, PodBook()).seen_at = reading.at
            for use in () if isinstance(used, Missing) else used:
                if use.pod is not None:
                    book.pods.setdefault(use.pod, PodBook()).seen_at = reading.at
            if book.before is not None:
                self._book(book, card, reading.at - book.read_at, held, used)
            book.before, book.read_at = card, reading.at
            self._learn_idle(book, card, used)
            self._forget(book, reading.at)

    def _book(
        self, book: CardBook, card: CardReading, seconds: float, held: list[Holder], used: Sequence[Use] | Missing
    ) -> None:
        if seconds <= 0:
            self.clock_anomalies += 1
            return
        pending = book.pending
        pending.seconds += seconds
        if seconds > self.longest_gap_seconds:
            self.gaps += 1
            pending.strangers = True
        else:
            self._book_time(book, card, seconds, held, used)
        assert book.before is not None
        if card.energy_at is not None and card.energy_at == book.before.energy_at:
            return  # the counter has not been asked since
        book.pending = _Pending()
        energy, source = self._energy(book, card, pending.seconds)
        book.observed_milliseconds[source] += pending.milliseconds
        if pending.strangers:
            # The counter still knows how much, nobody knows who.
            if source == MEASURED:
                book.energy_millijoules[source] += energy
                book.unattributed_millijoules[source] += energy
        elif source != UNKNOWN:
            self._book_energy(book, energy, source, pending, book.read_at + seconds)

    def _book_time(
        self, book: CardBook, card: CardReading, seconds: float, held: list[Holder], used: Sequence[Use] | Missing
    ) -> None:
        milliseconds = round(seconds * 1000)
        book.pending.milliseconds += milliseconds
        reserved, unreserved = apportion(milliseconds, [holder.share for holder in held], _unreserved(held))
        for holder, amount in zip(held, reserved, strict=True):
            book.pods[holder.pod].reserved_milliseconds += amount
        book.unreserved_milliseconds += unreserved
        weights, outside = _activity(held, used)
        self._book_busy(book, card, milliseconds, weights, outside)
        book.pending.add(seconds, held, weights, outside)

    def _energy(self, book: CardBook, card: CardReading, seconds: float) -> tuple[int, str]:
        """Millijoules since the last reading, and how they are known."""
        before = book.before
        assert before is not None
        now, then = card.energy_millijoules, before.energy_millijoules
        if not isinstance(now, Missing) and not isinstance(then, Missing):
            if 0 <= now - then <= _HIGHEST_WATTS * seconds * 1000:
                return now - then, MEASURED
            # The driver was loaded anew, or the reading is absurd.
            self.counter_resets += 1
        powers = [watts for watts in (known(before.power_watts), known(card.power_watts)) if watts is not None]
        if not powers:
            return 0, UNKNOWN
        return round(sum(powers) / len(powers) * seconds * 1000), ESTIMATED

    def _book_busy(
        self, book: CardBook, card: CardReading, milliseconds: int, weights: Mapping[PodKey, float], outside: float
    ) -> None:
        ratio = known(card.utilization_ratio)
        if ratio is None:
            ratio = known(card.sm_ratio)
        if ratio is None:
            return
        busy = round(milliseconds * min(ratio, 1.0))
        parts, rest = apportion(busy, list(weights.values()), outside)
        for pod, amount in zip(weights, parts, strict=True):
            book.pods[pod].busy_milliseconds += amount
        book.busy_milliseconds += busy
        book.unattributed_busy_milliseconds += rest

    def _book_energy(self, book: CardBook, energy: int, source: str, pending: _Pending, now: float) -> None:
        book.energy_millijoules[source] += energy
        idle = min(energy, round(self._idle_watts(book) * pending.seconds * 1000))
        if not pending.activity and pending.outside <= 0:
            idle = energy  # nothing ran: whatever was drawn above the known idle power is idle power
        parts, rest = apportion(idle, list(pending.reserved.values()), pending.unreserved)
        for pod, amount in zip(pending.reserved, parts, strict=True):
            self._pod(book, pod, now).energy_millijoules[source] += amount
        book.idle_millijoules[source] += rest
        parts, rest = apportion(energy - idle, list(pending.activity.values()), pending.outside)
        for pod, amount in zip(pending.activity, parts, strict=True):
            self._pod(book, pod, now).energy_millijoules[source] += amount
        book.unattributed_millijoules[source] += rest

    @staticmethod
    def _pod(book: CardBook, pod: PodKey, now: float) -> PodBook:
        """A pod's book; one that is gone is still owed what it caused since the counter was last read."""
        entry = book.pods.get(pod)
        if entry is None:
            entry = book.pods[pod] = PodBook(seen_at=now)
        return entry

    def _idle_watts(self, book: CardBook) -> float:
        configured = self.idle_watts.get(book.model)
        return configured if configured is not None else book.lowest_watts or 0.0

    @staticmethod
    def _learn_idle(book: CardBook, card: CardReading, used: Sequence[Use] | Missing) -> None:
        watts = known(card.power_watts)
        if watts is not None and not isinstance(used, Missing) and not used:
            book.lowest_watts = watts if book.lowest_watts is None else min(book.lowest_watts, watts)

    def _forget(self, book: CardBook, now: float) -> None:
        for pod in [pod for pod, entry in book.pods.items() if now - entry.seen_at > self.keep_finished_seconds]:
            del book.pods[pod]


def _normal(holders: Iterable[Holder]) -> list[Holder]:
    """One entry per pod, in a fixed order; shares that add to more than a card are scaled down to one."""
    shares: dict[PodKey, float] = {}
    for holder in holders:
        shares[holder.pod] = shares.get(holder.pod, 0.0) + max(holder.share, 0.0)
    scale = max(sum(shares.values()), 1.0)
    return [Holder(pod, share / scale) for pod, share in sorted(shares.items())]


def _unreserved(held: Sequence[Holder]) -> float:
    return max(1.0 - sum(holder.share for holder in held), 0.0)


def _activity(held: Sequence[Holder], used: Sequence[Use] | Missing) -> tuple[dict[PodKey, float], float]:
    """Weights by which activity is shared among pods, and the weight of what no pod did.

    By multiprocessor time where all of it is known; else by reserved share among the pods that have a process on the card (with
    the unreserved part standing for processes of nobody who reserved, if there are any); else, when not even the processes are
    known, by reserved share among all holders.
    """
    shares = {holder.pod: holder.share for holder in held}
    if isinstance(used, Missing):
        return {pod: share for pod, share in shares.items() if share > 0}, _unreserved(held)
    measured = [known(use.sm_ratio) for use in used]
    if used and None not in measured and sum(value for value in measured if value) > 0:
        weights: dict[PodKey, float] = {}
        outside = 0.0
        for use, value in zip(used, measured, strict=True):
            if use.pod is None:
                outside += value or 0.0
            elif value:
                weights[use.pod] = weights.get(use.pod, 0.0) + value
        return weights, outside
    running = sorted({use.pod for use in used if use.pod is not None})
    by_share = {pod: shares[pod] for pod in running if shares.get(pod, 0.0) > 0}
    if not by_share:
        return dict.fromkeys(running, 1.0), float(any(use.pod is None for use in used))
    uninvited = any(use.pod not in by_share for use in used)
    return by_share, _unreserved(held) if uninvited else 0.0

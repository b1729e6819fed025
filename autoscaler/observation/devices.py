"""How busy cards are, from the exporters of devices. Pure.

A card counts once, whoever shares it. A MIG instance is a card of its own: it carries the UUID of its parent, but does not
measure the parent. Where several metrics tell of one card the best one counts; where they contradict each other, nothing is known.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from autoscaler.observation.series import PodKey, Sample, spacing
from headroom.domain.engines import DEVICE_UTILISATION
from headroom.prometheus.series import Point

SCALE: Final = {name: metric.scale for metric in DEVICE_UTILISATION for name in metric.names}
_RANK: Final = {name: rank for rank, metric in enumerate(DEVICE_UTILISATION) for name in metric.names}
_IDLE: Final = 0.05
_NOT_IDLE: Final = 0.2
_FAR_APART: Final = 0.7
"""Two metrics of a card contradict each other when their means over the same minutes are so far apart, or when one says that it
idles and the other that it works. Both are shares of time with a kernel; sampling alone sets them less apart."""


class Seen(NamedTuple):
    """One metric of one card."""

    sample: Sample
    mean: float
    """Over all samples in sight."""
    spacing_seconds: float
    name: str


class Utilisation(NamedTuple):
    """A card's share of time with a kernel."""

    sample: Sample
    contradiction: str
    """What speaks against it, in words; empty when nothing does."""


@dataclass(slots=True)
class Device:
    """A card or a MIG instance, and the pods that its exporter names."""

    seen: dict[int, Seen] = field(default_factory=dict)
    """By rank of the metric, 0 the best."""

    def utilisation(self, clock_seconds: float, stale_seconds: float) -> Utilisation | None:
        """What fresh samples say; None where there is none."""
        fresh = [
            self.seen[rank]
            for rank in sorted(self.seen)
            if abs(clock_seconds - self.seen[rank].sample.at_seconds)
            <= max(stale_seconds, 2 * self.seen[rank].spacing_seconds)
        ]
        if not fresh:
            return None
        best = fresh[0]
        against = next((other for other in fresh[1:] if _contradict(best.mean, other.mean)), None)
        text = f"{best.name} says {best.mean:.2f} and {against.name} {against.mean:.2f}" if against else ""
        return Utilisation(best.sample, text)


@dataclass(slots=True)
class Devices:
    """All cards that were reported."""

    by_id: dict[str, Device] = field(default_factory=dict)
    """By UUID, with `/INSTANCE` for MIG instances, and by `node/index` for whole cards."""
    of_pod: dict[PodKey, set[str]] = field(default_factory=dict)
    spacing_seconds: float = 0.0
    """The widest one seen."""

    def add(self, name: str, labels: Mapping[str, str], points: Sequence[Point]) -> None:
        """One series of `DEVICE_UTILISATION`. `labels` are the exporter's own, `points` at least one, finite."""
        scale = SCALE[name]
        values = [(at, value * scale) for at, value in points if 0 <= value * scale <= 1.01]
        if not values or values[-1][0] != points[-1][0]:
            return  # the values stand for "not supported"
        apart = spacing(points)
        self.spacing_seconds = max(self.spacing_seconds, apart)
        mean = math.fsum([value for _, value in values]) / len(values)
        seen = Seen(Sample(*values[-1]), mean, apart, name)
        names = list(_names(labels))
        for id_ in names:
            self._keep(self.by_id.setdefault(id_, Device()), _RANK[name], seen)
        pod = labels.get("namespace", ""), labels.get("pod", "")
        if names and pod[1]:
            self.of_pod.setdefault(pod, set()).add(names[0])

    def ids_of(self, namespace: str, pod: str, node: str, cards: Iterable[str]) -> set[str]:
        """The cards of a pod: those whose exporter names it, else those that the scheduler wrote on it."""
        named = self.of_pod.get((namespace, pod))
        if named:
            parents = {id_.partition("/")[0] for id_ in named if "/" in id_}
            return named - parents
        return {id_ for card in cards for id_ in (card, f"{node}/{card}") if id_ in self.by_id}

    @staticmethod
    def _keep(device: Device, rank: int, seen: Seen) -> None:
        """Of several series of one card and metric the newest; of one scrape the busiest (one for each sharer of the card)."""
        known = device.seen.get(rank)
        if known is None or (seen.sample.at_seconds, seen.sample.value) > (known.sample.at_seconds, known.sample.value):
            device.seen[rank] = seen


def _names(labels: Mapping[str, str]) -> Iterable[str]:
    """The UUID first."""
    uuid = labels.get("UUID") or labels.get("uuid") or labels.get("card") or ""
    instance = labels.get("GPU_I_ID", "")
    if uuid:
        yield f"{uuid}/{instance}" if instance else uuid
    if instance:
        return
    node, index = labels.get("node") or labels.get("Hostname") or "", labels.get("gpu") or labels.get("card") or ""
    if node and index:
        yield f"{node}/{index}"


def _contradict(one: float, other: float) -> bool:
    low, high = sorted((one, other))
    return (low < _IDLE and high > _NOT_IDLE) or high - low > _FAR_APART

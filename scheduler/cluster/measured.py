"""What Prometheus says of each card: the memory in use, and how busy it is; read for the whole fleet and matched to its cards.

Two exporters are understood. Headroom's agent tells what each card has in use, what each pod uses of it, and what processes
outside pods use; NVIDIA's dcgm-exporter tells totals. Only samples younger than the age bound count.

A card is found by its UUID wherever it is (dcgm-exporter's `Hostname` is often the name of its own pod), else by node and index.
Pure.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from headroom.domain.model import GpuNode
from headroom.prometheus.series import DeviceJobs, newest
from headroom.units import MIB
from scheduler.ledger.measured import CardUse

AGENT_METRIC: Final = "headroom_card_memory_used_bytes"
AGENT_OUTSIDE_METRIC: Final = "headroom_card_unattributed_memory_bytes"
AGENT_POD_METRIC: Final = "headroom_pod_memory_used_bytes"
DCGM_METRIC: Final = "DCGM_FI_DEV_FB_USED"  # MiB
METRICS: Final = (AGENT_METRIC, AGENT_OUTSIDE_METRIC, AGENT_POD_METRIC, DCGM_METRIC)
"""In the order in which they are asked for: totals first, since of one agent nothing older than the total counts.

Each by itself: of a large fleet all in one answer would be 50 MB, which no thread can look through without holding up the others.
"""

BUSY_METRICS: Final = {"headroom_card_utilization_ratio": 1.0, "DCGM_FI_DEV_GPU_UTIL": 0.01}
"""Metric -> what turns its values into a share of time, 0 to 1. In the order in which they are believed."""

Busy = dict[str, dict[str, float]]
"""By node name and card id: share of time that any kernel ran, 0 to 1."""

_LARGEST_MIB: Final = 2**24  # 16 TiB: beyond it lie the values that stand for "not supported"
_ONE_SCRAPE_SECONDS: Final = 0.5
"""Samples of one scrape carry one time; what is older than the card's total was not there any more when that was read."""
_EXAMPLES: Final = 3
_STRANGERS_KEPT: Final = 4096


def query_for(metric: str, max_age_seconds: float) -> str:
    """The query for one metric: a range, for the samples' own times, which an instant query would not tell."""
    return f"{metric}[{max(math.ceil(max_age_seconds), 1)}s]"


class Labels(msgspec.Struct, rename={"name": "__name__"}, gc=False):
    """The labels that are read; a fleet of 40,000 cards has well over 100,000 series with a dozen labels each."""

    name: str = ""
    job: str = ""
    instance: str = ""
    node: str = ""
    hostname: str = msgspec.field(name="Hostname", default="")
    card: str = ""
    uuid: str = msgspec.field(name="UUID", default="")
    gpu: str = ""
    instance_id: str = msgspec.field(name="GPU_I_ID", default="")
    namespace: str = ""
    pod: str = ""
    container: str = ""
    exported_node: str = ""
    exported_namespace: str = ""
    exported_pod: str = ""
    exported_container: str = ""


class Line(msgspec.Struct, gc=False):
    """One series, as Prometheus sends a range."""

    metric: Labels
    values: tuple[tuple[float, float], ...] = ()


class _LineAsText(msgspec.Struct):
    """The same with values as they are spelt; a server that answers a range with one value is understood as well."""

    metric: Labels
    values: list[tuple[float, str]] = []
    value: tuple[float, str] | None = None


_LINE: Final = msgspec.json.Decoder(Line, strict=False)
_LINE_AS_TEXT: Final = msgspec.json.Decoder(_LineAsText)


def line_of(entry: msgspec.Raw) -> Line:
    """Read one series. Raises ValueError for what is none."""
    try:
        quick = _LINE.decode(entry)
    except msgspec.ValidationError:  # `+Inf` and `NaN`, which that decoder does not know
        quick = None
    if quick is not None and quick.values:
        return quick
    line = _LINE_AS_TEXT.decode(entry)
    points = line.values or ([line.value] if line.value is not None else [])
    return Line(line.metric, tuple((at, float(value)) for at, value in points))


class _Place(msgspec.Struct, frozen=True, gc=False):
    """What a scraped exporter calls one card."""

    job: str
    instance: str

    node: str
    hostname: str
    card: str
    uuid: str
    position: str
    """The driver's index of the card."""

    @property
    def words(self) -> str:
        """For people."""
        node = self.node or self.hostname
        card = self.card or self.uuid or f"index {self.position}"
        return f"{card} of {node}" if node else card


_NO_SAMPLE: Final = (-math.inf, 0)


class _Found(msgspec.Struct, gc=False):
    """What one exporter says of one card. Times are Unix seconds."""

    believed: bool = False
    """Whether its scrape job is."""
    series: int = 0
    total: tuple[float, int] = _NO_SAMPLE
    """When, and MiB."""
    outside: tuple[float, int] = _NO_SAMPLE
    pods: dict[tuple[str, str], tuple[float, int]] = msgspec.field(default_factory=dict)
    """By pod (`namespace/name`) and container."""
    dcgm: tuple[float, int] = _NO_SAMPLE

    def add(self, metric: str, labels: Labels, sample: tuple[float, int], *, believed: bool) -> None:
        """Of two samples of one thing the newer counts; of one time the larger: dcgm-exporter repeats a shared card for each pod."""
        self.series += 1
        if metric == AGENT_POD_METRIC:
            namespace, pod, container = labels.namespace, labels.pod, labels.container
            if labels.exported_pod:
                namespace, pod = labels.exported_namespace or namespace, labels.exported_pod
                container = labels.exported_container or container
            key = f"{namespace}/{pod}", container
            self.pods[key] = max(self.pods.get(key, _NO_SAMPLE), sample)
            return
        self.believed |= believed
        if metric == AGENT_METRIC:
            self.total = max(self.total, sample)
        elif metric == AGENT_OUTSIDE_METRIC:
            self.outside = max(self.outside, sample)
        else:
            self.dcgm = max(self.dcgm, sample)

    def use(self) -> CardUse:
        """The agent's word where there is one, else dcgm-exporter's total."""
        at = self.total[0]
        if at == -math.inf and not self.pods and self.outside[0] == -math.inf:
            return CardUse(self.dcgm[0], self.dcgm[1])
        if at == -math.inf:
            at = max(self.outside[0], *(sample[0] for sample in self.pods.values()), -math.inf)
        known_from = at - _ONE_SCRAPE_SECONDS
        by_pod: dict[str, int] = {}
        for (pod, _), (read_at, mib) in self.pods.items():
            if read_at >= known_from:
                by_pod[pod] = by_pod.get(pod, 0) + mib
        total = None if self.total[0] == -math.inf else self.total[1]
        return CardUse(at, total, self.outside[1] if self.outside[0] >= known_from else None, by_pod)


@dataclass(slots=True)
class MeasuredVram:
    """Memory in use on the fleet's cards, as of one reading."""

    uses: dict[str, dict[str, CardUse]] = field(default_factory=dict)
    """By node name and card id."""
    stale: int = 0
    """Series left out for their age."""
    unusable: int = 0
    """Series left out because they name no card, or because their value cannot be one."""
    unmatched: int = 0
    """Series of cards that no node has."""
    examples: list[str] = field(default_factory=list)
    """A few of those, in words."""
    doubted_jobs: set[str] = field(default_factory=set)
    """Scrape jobs whose word on other pods is not taken, see `headroom.prometheus.series`."""
    doubted: int = 0
    """Series left out for that."""
    strangers: dict[_Place, CardUse] = field(default_factory=dict)
    """Cards that no node had: it may be described again before the next reading."""

    @property
    def cards(self) -> int:
        """Cards with a fresh measurement."""
        return sum(map(len, self.uses.values()))

    def of_node(self, node: GpuNode) -> Mapping[str, CardUse]:
        """What was read of a node's cards, by card id."""
        found = self.uses.get(node.name, {})
        if self.strangers and len(found) < len(node.cards):
            finder = CardFinder({node.name: node})
            late = {card[1]: use for place, use in self.strangers.items() if (card := finder.find(place)) is not None}
            return late | found
        return found

    def fill_from(self, earlier: "MeasuredVram", *, oldest: float) -> None:
        """Take what is missing here from an earlier reading, where it is not too old: this one is known to be a part."""
        for name, cards in earlier.uses.items():
            for card_id, use in cards.items():
                if use.at >= oldest:
                    self.uses.setdefault(name, {}).setdefault(card_id, use)


class CardFinder:
    """Finds the card that a series speaks of among all nodes."""

    def __init__(self, nodes: Mapping[str, GpuNode]) -> None:
        self._ids = {name: {card.id: (name, card.id) for card in node.cards} for name, node in nodes.items()}
        self._owner: dict[str, tuple[str, str] | None] = {}
        self._by_short_name: dict[str, str | None] = {}
        for name, ids in self._ids.items():
            for card_id, found in ids.items():
                if not card_id.isdigit():  # an index stands for an id where no agent runs
                    self._owner[card_id] = None if card_id in self._owner else found
            short = name.split(".", 1)[0]
            self._by_short_name[short] = None if short in self._by_short_name else name

    def find(self, place: _Place) -> tuple[str, str] | None:
        """Node name and card id; None where no node has the card, or several could be meant."""
        for name in (place.node, place.hostname):
            if (found := self._on(name, place)) is not None:
                return found
        for card_id in (place.card, place.uuid):
            if (found := self._owner.get(card_id)) is not None:
                return found
        for name in filter(None, (place.node, place.hostname)):
            full = self._by_short_name.get(name.split(".", 1)[0])
            if full is not None and (found := self._on(full, place)) is not None:
                return found
        return None

    def _on(self, name: str, place: _Place) -> tuple[str, str] | None:
        ids = self._ids.get(name)
        return None if ids is None else ids.get(place.card) or ids.get(place.uuid) or ids.get(place.position)


class Readings:
    """Puts a reading together, one metric after another. `nodes` are those whose cards are looked for, `now` is in Unix seconds.

    Series of MIG instances by dcgm-exporter are left out: they name the card, not the instance that was handed out.
    """

    def __init__(
        self, nodes: Mapping[str, GpuNode], *, max_age_seconds: float, now: float, jobs: DeviceJobs | None = None
    ) -> None:
        self._nodes, self._jobs = nodes, jobs or DeviceJobs()
        self._oldest = now - max_age_seconds
        self._found: dict[_Place, _Found] = {}
        self._result = MeasuredVram()

    def add(self, metric: str, lines: Iterable[Line]) -> None:
        """Take in the series of one metric."""
        result, jobs, found = self._result, self._jobs, self._found
        scale = 1 if metric == DCGM_METRIC else MIB
        for line in lines:
            labels = line.metric
            if labels.name != metric:
                continue
            sample = newest(line.values)
            if sample is None:
                result.unusable += 1
                continue
            at, value = sample
            if at < self._oldest:
                result.stale += 1
                continue
            believed = jobs.believed(labels.job, labels.namespace)
            if labels.exported_pod and not believed and metric == AGENT_POD_METRIC:
                result.doubted += 1
                result.doubted_jobs.add(labels.job)
                continue
            place, mib = place_of(labels, believed=believed), math.ceil(value / scale)
            if place is None or value < 0 or mib > _LARGEST_MIB:
                result.unusable += 1
                continue
            one = found.get(place)
            if one is None:
                one = found[place] = _Found()
            one.add(metric, labels, (at, mib), believed=believed)

    def result(self) -> MeasuredVram:
        """What the series say of the nodes' cards."""
        _match(self._result, self._found, CardFinder(self._nodes))
        return self._result


def place_of(labels: Labels, *, believed: bool) -> _Place | None:
    """The card that a series' labels speak of, as the exporter names it; `believed` whether its scrape job is. None for no card."""
    if labels.instance_id:
        return None
    node = (labels.exported_node if believed else "") or labels.node
    if not (labels.card or labels.uuid or (labels.gpu and (node or labels.hostname))):
        return None
    return _Place(labels.job, labels.instance, node, labels.hostname, labels.card, labels.uuid, labels.gpu)


def _match(result: MeasuredVram, found: Mapping[_Place, _Found], finder: CardFinder) -> None:
    ranks: dict[tuple[str, str], tuple[bool, bool, float]] = {}
    for place, one in found.items():
        use, card = one.use(), finder.find(place)
        if card is None:
            _note_stranger(result, place, use, one.series)
            continue
        # Those who are believed before others, who names processes before who does not, the newer before the older.
        rank = (one.believed, use.outside_mib is not None or bool(use.by_pod), use.at)
        if card not in ranks or rank > ranks[card]:
            ranks[card] = rank
            result.uses.setdefault(card[0], {})[card[1]] = use


def _note_stranger(result: MeasuredVram, place: _Place, use: CardUse, series: int) -> None:
    result.unmatched += series
    if len(result.examples) < _EXAMPLES:
        result.examples.append(place.words)
    if len(result.strangers) < _STRANGERS_KEPT:
        result.strangers.setdefault(place, use)


def busy_of(
    lines: Iterable[Line], metric: str, nodes: Mapping[str, GpuNode], jobs: DeviceJobs, *, oldest: float
) -> Busy:
    """The mean of each card's samples that are not older than `oldest` (Unix seconds); of several series the one with the newest."""
    scale, finder = BUSY_METRICS[metric], CardFinder(nodes)
    newest: dict[tuple[str, str], tuple[bool, float, float]] = {}
    for line in lines:
        points = [(at, value) for at, value in line.values if at >= oldest and 0 <= value * scale <= 1]
        believed = jobs.believed(line.metric.job, line.metric.namespace)
        place = place_of(line.metric, believed=believed)
        if line.metric.name != metric or not points or place is None:
            continue
        card = finder.find(place)
        if card is None:
            continue
        found = believed, points[-1][0], scale * sum(value for _, value in points) / len(points)
        newest[card] = max(found, newest.get(card, found))
    busy: Busy = {}
    for (node, card_id), (_, _, share) in newest.items():
        busy.setdefault(node, {})[card_id] = share
    return busy

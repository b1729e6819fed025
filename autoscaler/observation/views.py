"""Which series of one pod and metric are the same thing seen twice, and which are parts of it. Pure.

One pod can be scraped by several jobs, by two Prometheus servers, through a federation or a mesh's merged port; a reload gives
its series new labels while the old ones are still in sight. Only a few labels tell of parts (`Engine.parts`: models, adapters,
data-parallel ranks); any other label is another view. In order:

1. a series that its own view's latest scrape does not have any more has ended;
2. two ports of a pod are two servers and are added, unless one repeats the other (`Ports`);
3. of the views of one part the newest counts, and goes on from one that ended before it began (a reload);
4. series of one scrape that differ in other labels are one count repeated (a rank for each GPU), of which the largest counts.
   Counters that show different values in one scrape cannot be one counter, and are added.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from autoscaler.observation.series import PodKey, Rate, address_of
from headroom.prometheus.series import EXPORTED, Point

REPEATING: Final = frozenset(
    {"tp_rank", "pp_rank", "cp_rank", "ep_rank", "moe_ep_rank", "attn_tp_rank", "attn_cp_rank", "pid"}
)
"""Labels of ranks and processes of one server that repeat its counts: they make no view of their own."""
MESH_PORTS: Final = frozenset({15020, 15090, 20200, 5670, 4191})
"""Where sidecars of Istio, Consul, Kuma and Linkerd expose metrics, their pod's own among them."""
NO_PARTS: Final = frozenset[str]()
CLUSTER: Final = "cluster"
SAME_SCRAPE_SECONDS: Final = 0.005
_UNIDENTIFYING: Final = REPEATING | {"__name__", "le"}
_USUAL_SPACING_SECONDS: Final = 15.0


class Labels(NamedTuple):
    """What the labels of a series say, as numbers: of thousands of series only these fit in memory beside the answer."""

    port: int
    """Of the server; 0: not known."""
    names: int
    """Which labels tell of parts."""
    part: int
    """What they say."""
    view: int
    """What the other labels say: who scraped it, and how."""


class Entry(NamedTuple):
    """What is kept of one series while an answer is read."""

    labels: Labels
    at_seconds: float
    value: float
    """The newest."""
    rate: Rate | None = None
    """Of a counter, or of a gauge that counts requests."""
    before: Point | None = None
    """Of a counter: the point before the newest."""
    young: "Young | None" = None
    """Of a counter that is not seen for as long as its means want."""


class Young(NamedTuple):
    """How a series began that is shorter than what is asked for."""

    first: Point
    rise: float
    """From the first point to the newest, restarts included."""


class _Schema(NamedTuple):
    """What a set of label names comes to."""

    parts: tuple[tuple[str, str], ...]
    """(name, the label that has its value): a target's label of the same name renames that of the exposition."""
    names: int
    others: tuple[str, ...]
    read: tuple[str, ...]
    """All labels that are looked at."""
    known: dict[tuple[str, ...], Labels]
    """By their values: the metrics of a pod share one."""


class LabelReader:
    """Reads labels; what their names come to is worked out once for each set of names, what they say once for each pod."""

    def __init__(self) -> None:
        self._schemas: dict[tuple[tuple[str, ...], frozenset[str]], _Schema] = {}

    def read(self, labels: Mapping[str, str], parts: frozenset[str]) -> Labels:
        """`parts`: the labels that tell of parts of the engine whose metric this is."""
        key = tuple(labels), parts
        schema = self._schemas.get(key)
        if schema is None:
            schema = self._schemas[key] = _schema(labels, parts)
        values = tuple([labels[name] for name in schema.read])
        found = schema.known.get(values)
        if found is None:
            instance = labels.get("exported_instance") or labels.get("instance", "")
            found = schema.known[values] = Labels(
                address_of(instance).port if instance else 0,
                schema.names,
                hash(tuple([labels[source] for _, source in schema.parts])),
                hash((schema.others, *[labels[name] for name in schema.others])),
            )
        return found


def _schema(labels: Iterable[str], parts: frozenset[str]) -> _Schema:
    names = set(labels)
    found = {name: name for name in names & parts}
    for name in names:
        if name.startswith(EXPORTED) and name.removeprefix(EXPORTED) in parts:
            found[name.removeprefix(EXPORTED)] = name
    others = tuple(sorted(names - _UNIDENTIFYING - parts - {EXPORTED + name for name in parts}))
    read = (*others, *found.values())
    return _Schema(tuple(sorted(found.items())), hash(tuple(sorted(found))), others, read, {})


Found: TypeAlias = dict[str, dict[PodKey, list[Entry]]]
"""Metric -> pod -> its series."""


class Latest:
    """When each view of a pod was scraped last, by one answer, and how far apart its scrapes are."""

    def __init__(self) -> None:
        self._views: dict[PodKey, dict[int, tuple[float, float, int]]] = {}
        """Pod -> view -> (newest sample, spacing, points that the spacing was found from)."""

    def known_points(self, pod: PodKey, view: int) -> int:
        """How many points the spacing of this view was found from so far."""
        known = self._views.get(pod, {}).get(view)
        return known[2] if known else 0

    def note(self, pod: PodKey, view: int, at_seconds: float, spacing: float, points: int) -> bool:
        """Take in a series; whether its view is a new one. `spacing` counts where it was found from more points than before."""
        views = self._views.setdefault(pod, {})
        known = views.get(view)
        if known is None:
            views[view] = (at_seconds, spacing, points)
            return True
        newest = max(known[0], at_seconds)
        views[view] = (newest, spacing, points) if points > known[2] else (newest, known[1], known[2])
        return False

    def has_ended(self, pod: PodKey, entry: Entry) -> bool:
        """Whether the latest scrape of the same view came without this series."""
        at, spacing, _ = self._views[pod][entry.labels.view]
        return at - entry.at_seconds > (spacing or _USUAL_SPACING_SECONDS) / 2

    def scrapes(self) -> Iterable[tuple[PodKey, float, float]]:
        """(pod, newest sample, spacing of the view that is scraped most often; 0: not known)."""
        for pod, views in self._views.items():
            spacings = [spacing for _, spacing, _ in views.values() if spacing > 0]
            yield pod, max([at for at, _, _ in views.values()]), min(spacings, default=0.0)


class Ports:
    """Which ports of a pod repeat another port of it, found from their counters.

    One counter seen on two ports lies, at each, between the values before and after at the other; two servers' counters do
    not, all of them at once. Where no counter has counted yet, gauges that agree decide.
    """

    def __init__(self) -> None:
        self._several: dict[PodKey, set[int]] = {}
        self._one: dict[PodKey, int] = {}
        self._repeats: dict[PodKey, dict[int, int]] = {}

    def note(self, pod: PodKey, port: int) -> None:
        """The pod has a view at this port."""
        if not port:
            return
        first = self._one.setdefault(pod, port)
        if first != port:
            self._several.setdefault(pod, {first}).add(port)

    def compare(self, counters: Found, gauges: Found) -> None:
        """Decide for every pod with several ports."""
        for pod, ports in self._several.items():
            # A sidecar repeats the server, not the other way round.
            ordered = sorted(ports, key=lambda port: (port in MESH_PORTS, port))
            kept: list[int] = []
            repeats: dict[int, int] = {}
            for port in ordered:
                same = next((other for other in kept if _is_repeated(pod, other, port, counters, gauges)), None)
                if same is None:
                    kept.append(port)
                else:
                    repeats[port] = same
            self._repeats[pod] = repeats

    def server(self, pod: PodKey, port: int) -> int:
        """The port whose server this is; 0 where it is not known and the pod has one server."""
        if pod not in self._several:
            return 0
        return self._repeats.get(pod, {}).get(port, port)


def _is_repeated(pod: PodKey, one: int, other: int, counters: Found, gauges: Found) -> bool:
    decided = False
    for left, right in _pairs(pod, one, other, counters):
        if not left.value and not right.value:
            continue
        if not _may_be_one_counter(left, right):
            return False
        decided = True
    if decided or one in MESH_PORTS or other in MESH_PORTS:
        return True
    pairs = list(_pairs(pod, one, other, gauges))
    return bool(pairs) and all(left.value == right.value for left, right in pairs)


def _pairs(pod: PodKey, one: int, other: int, found: Found) -> Iterable[tuple[Entry, Entry]]:
    """Newest series of each part that both ports have."""
    for pods in found.values():
        by_part: dict[tuple[int, int], dict[int, Entry]] = {}
        for entry in pods.get(pod, ()):
            place = by_part.setdefault((entry.labels.names, entry.labels.part), {})
            known = place.get(entry.labels.port)
            if known is None or entry.at_seconds > known.at_seconds:
                place[entry.labels.port] = entry
        yield from ((ports[one], ports[other]) for ports in by_part.values() if one in ports and other in ports)


def _may_be_one_counter(one: Entry, other: Entry) -> bool:
    if one.at_seconds > other.at_seconds:
        one, other = other, one
    slack = 1e-9 * abs(other.value)
    if other.before is None:
        return abs(one.value - other.value) <= slack
    if other.before[1] > other.value + slack or (one.before and one.before[1] > one.value + slack):
        return False  # restarted: nothing can be told
    low = other.before[1] if one.at_seconds >= other.before[0] - SAME_SCRAPE_SECONDS else 0.0
    return low - slack <= one.value <= other.value + slack


def of_gauge(entries: Sequence[Entry], pod: PodKey, latest: Latest, ports: Ports) -> list[Entry]:
    """The parts of a gauge: to be added, or averaged where they are shares. Empty where every series has ended."""
    if len(entries) == 1:
        return [] if latest.has_ended(pod, entries[0]) else [*entries]
    return [max(_newest(alive), key=lambda entry: entry.value) for alive, _ in _parts(entries, pod, latest, ports)]


def of_counter(
    entries: Sequence[Entry], pod: PodKey, latest: Latest, ports: Ports, means: tuple[float, float]
) -> list[Entry]:
    """The parts of a counter, to be added; `means` are the short and the long averaging time in seconds."""
    if len(entries) == 1:
        return [] if latest.has_ended(pod, entries[0]) else [*entries]
    found = []
    for alive, views in _parts(entries, pod, latest, ports):
        by_view: dict[int, Entry] = {}
        for entry in _newest(alive):
            known = by_view.get(entry.labels.view)
            if known is None or entry.value > known.value:
                by_view[entry.labels.view] = entry
        different = {entry.value: entry for entry in by_view.values()}
        found += [_continued(entry, views, means) for entry in different.values()]
    return found


_Part: TypeAlias = tuple[list[Entry], Sequence[Entry]]
"""The views of one part that go on, and all of them."""


def _parts(entries: Sequence[Entry], pod: PodKey, latest: Latest, ports: Ports) -> Iterable[_Part]:
    for of_server in _servers(entries, pod, ports):
        schemas: dict[int, list[Entry]] = {}
        for entry in of_server:
            schemas.setdefault(entry.labels.names, []).append(entry)
        alive = {
            names: found
            for names, series in schemas.items()
            if (found := [entry for entry in series if not latest.has_ended(pod, entry)])
        }
        if not alive:
            continue
        # Series that name other kinds of parts (one job adds a label of that name) are no parts of one another.
        names = max(alive, key=lambda names: (max([entry.at_seconds for entry in alive[names]]), len(alive[names])))
        by_part: dict[int, list[Entry]] = {}
        for entry in alive[names]:
            by_part.setdefault(entry.labels.part, []).append(entry)
        for part, going_on in by_part.items():
            yield going_on, [entry for entry in of_server if entry.labels.part == part]


def _servers(entries: Sequence[Entry], pod: PodKey, ports: Ports) -> Iterable[list[Entry]]:
    servers: dict[int, list[Entry]] = {}
    for entry in entries:
        servers.setdefault(ports.server(pod, entry.labels.port), []).append(entry)
    unknown = servers.pop(0, []) if len(servers) > 1 else []
    if len(servers) == 1:  # a view whose port is not known is one of the only server
        next(iter(servers.values())).extend(unknown)
    return servers.values()


def _newest(views: Sequence[Entry]) -> list[Entry]:
    """The series of the newest scrape."""
    newest = max([entry.at_seconds for entry in views])
    return [entry for entry in views if newest - entry.at_seconds <= SAME_SCRAPE_SECONDS]


def _continued(entry: Entry, views: Sequence[Entry], means: tuple[float, float]) -> Entry:
    """A series that began lately, with the one that ended before it began: the same counter under other labels."""
    if entry.young is None:
        return entry
    (first_at, first), rise = entry.young
    earlier = [other for other in views if other.at_seconds < first_at]
    if not earlier:
        return entry
    old = max(earlier, key=lambda other: other.at_seconds)
    span, elapsed = entry.at_seconds - first_at, entry.at_seconds - old.at_seconds
    risen = rise + (first - old.value if first >= old.value else first)

    def mean(seconds: float, own: float | None, before: float) -> float:
        if own is not None and span >= seconds:
            return own
        rest = max(seconds - elapsed, 0.0) if old.rate else 0.0
        return (risen + before * rest) / (elapsed + rest)

    rate, past = entry.rate, old.rate or Rate(0.0, 0.0, 0.0)
    short = mean(means[0], rate.short if rate else None, past.short)
    long = mean(means[1], rate.long if rate else None, past.long)
    return entry._replace(rate=Rate(entry.at_seconds, short, long))

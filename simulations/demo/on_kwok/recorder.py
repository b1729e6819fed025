"""What the demo records of a run on the real control plane: pods by watch, gauges and counters of the emulated servers."""

import math
import re
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from headroom import names
from headroom.domain.assignment import assignment_of
from headroom.domain.model import GpuNode
from headroom.wire import DELETED, Pod
from simulations.demo.fleet import NodeGroup, build_fleet_of
from simulations.demo.services.record import ServiceRecord, Share, SideRecord, Track
from simulations.embedded.store import CardRef

SHARED: Final = "shared"
WHOLE: Final = "whole"
LABEL_SIDE: Final = "side"
TICK_SECONDS: Final = 1.0
TTFT_SECONDS: Final = 2.5
_GROUPS: Final = (NodeGroup("A10", 4, 2), NodeGroup("L40S", 3, 2))
_LATENCY_WINDOW: Final = 10
_SAMPLE: Final = re.compile(r'vllm:(\w+)\{namespace="(\w+)",pod="([^"]+)"(?:.*?le="([^"]+)")?.*?\} ([0-9.e+-]+)')


@dataclass(frozen=True, slots=True)
class Service:
    """An emulated service: its memory, its card, and its load over the run (share of it from 0 to 1 -> requests per second)."""

    name: str
    model: str
    card: str
    vram_mib: int
    load: Callable[[float], float]
    prompt_tokens: float = 500.0
    output_tokens: float = 100.0


SERVICES: Final = (
    Service("chat", "llama-3.1-8b int4", "A10", 11 * 1024, lambda at: 2 + 14 * math.sin(math.pi * at) ** 2),
    Service("mail", "phi-3.5-mini int4", "A10", 9 * 1024, lambda at: 1.0),
    Service("code", "mistral-7b int4", "L40S", 20 * 1024, lambda at: 10.0 if int(at * 6) % 2 else 0.5),
    Service("documents", "qwen2.5-14b int4", "L40S", 22 * 1024, lambda at: 1 + 4 * at, 1200.0, 150.0),
    Service("translate", "gemma-2-9b fp8", "L40S", 16 * 1024, lambda at: 0.8),
)


def fleet() -> list[GpuNode]:
    """The cards that each side has."""
    return build_fleet_of(_GROUPS)


def side_nodes() -> list[GpuNode]:
    """Both sides' nodes as they are created: the side is in the name and in a label."""
    return [
        GpuNode(
            name=f"{side}-{node.name}",
            cards=node.cards,
            resource=names.RESOURCE_NVIDIA_GPU,
            cpu_milli=node.cpu_milli,
            memory_mib=node.memory_mib,
            labels={LABEL_SIDE: side},
        )
        for side in (SHARED, WHOLE)
        for node in fleet()
    ]


def _plain(node: str) -> str:
    """Name of a node without its side."""
    return node.split("-", 1)[1]


@dataclass(slots=True)
class _Life:
    """One pod of a side."""

    service: int
    ready: bool = False
    leaving: bool = False
    shares: list[Share] = field(default_factory=list)


class Recorder:
    """Follows both sides' pods by watch: who holds which card since when."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.pods: dict[str, dict[str, _Life]] = {SHARED: {}, WHOLE: {}}
        self.shares: dict[str, list[Share]] = {SHARED: [], WHOLE: []}
        self._index = {service.name: at for at, service in enumerate(SERVICES)}

    def on_pod(self, kind: str, _: str, pod: Pod) -> None:
        """One change of a pod."""
        side, name = pod.metadata.namespace, pod.metadata.name
        service = self._index.get(pod.metadata.labels.get("app", ""))
        if side not in self.pods or service is None:
            return
        now = max(time.monotonic() - self.began, 0.0)
        if kind == DELETED:
            life = self.pods[side].pop(name, None)
            for share in life.shares if life else ():
                share.end = now
            return
        life = self.pods[side].setdefault(name, _Life(service))
        life.leaving = pod.metadata.deletion_timestamp is not None
        life.ready = not life.leaving and any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)
        if pod.spec.node_name and not life.shares:
            self._hold(side, pod, life, now)
        if life.ready:
            for share in life.shares:
                share.ready = now if share.ready is None else share.ready

    def _hold(self, side: str, pod: Pod, life: _Life, now: float) -> None:
        node = _plain(pod.spec.node_name)
        assignment = assignment_of(pod.metadata.annotations)
        taken = {share.card for other in self.pods[side].values() for share in other.shares}
        cards = [
            index
            for index in range(2)
            if (assignment is None and (node, index) not in taken)
            or (assignment and f"GPU-{node}-{index}" in assignment.cards)
        ]
        life.shares = [
            Share(life.service, pod.metadata.name, (node, index), SERVICES[life.service].vram_mib, now)
            for index in cards[:1]
        ]
        self.shares[side] += life.shares

    def restart_clock(self) -> None:
        """Count seconds from now: what is held already was held, and ready, from the start."""
        self.began = time.monotonic()
        for shares in self.shares.values():
            for share in shares:
                share.start = 0.0
                share.ready = 0.0 if share.ready is not None else None

    def counts(self, side: str, service: int) -> tuple[int, int]:
        """(pods wanted, pods ready) of a service."""
        lives = [life for life in self.pods[side].values() if life.service == service and not life.leaving]
        return len(lives), sum(life.ready for life in lives)


class SideRun:
    """What is recorded of one side, second by second."""

    def __init__(self, key: str, title: str, recorder: Recorder) -> None:
        self.key, self.title, self._recorder = key, title, recorder
        self.times: list[float] = []
        self.tracks = [Track() for _ in SERVICES]
        refs = [(node.name, card.index) for node in fleet() for card in node.cards]
        self.held: dict[CardRef, list[bool]] = {ref: [] for ref in refs}
        self.busy: dict[CardRef, list[float]] = {ref: [] for ref in refs}
        self._totals: dict[str, dict[str, float]] = {}
        """Counters by pod as last seen; a pod that is gone keeps its last ones."""
        self._steps: list[list[dict[str, float]]] = [[] for _ in SERVICES]

    def sample(self, now: float, share: float, gauges: Mapping[str, Mapping[str, float]]) -> None:
        """Record a second: `gauges` are the emulator's samples by pod."""
        self.times.append(now)
        pods = self._recorder.pods[self.key]
        running: dict[CardRef, bool] = {}
        for at, service in enumerate(SERVICES):
            mine = {name: gauges[name] for name, life in pods.items() if life.service == at and name in gauges}
            wanted, ready = self._recorder.counts(self.key, at)
            track = self.tracks[at]
            track.demand.append(service.load(share))
            track.replicas.append(wanted)
            track.ready.append(ready)
            track.queue.append(round(sum(pod.get("num_requests_waiting", 0.0) for pod in mine.values())))
            track.ttft.append(self._ttft(at, mine))
            for name, pod in mine.items():
                for held in pods[name].shares:
                    running[held.card] = running.get(held.card, False) or pod.get("num_requests_running", 0.0) > 0
        holders = {held.card for life in pods.values() for held in life.shares}
        for ref, series in self.held.items():
            series.append(ref in holders)
            self.busy[ref].append(1.0 if running.get(ref) else 0.0)

    def _ttft(self, service: int, mine: Mapping[str, Mapping[str, float]]) -> float | None:
        """Upper edge of the bucket that holds the 95th percentile of the last ten seconds' first tokens."""
        step: dict[str, float] = {}
        for name, pod in mine.items():
            known = self._totals.setdefault(name, {})
            for edge, total in pod.items():
                if edge.startswith("le="):
                    step[edge] = step.get(edge, 0.0) + max(total - known.get(edge, 0.0), 0.0)
                    known[edge] = total
        self._steps[service].append(step)
        recent: dict[str, float] = {}
        for other in self._steps[service][-_LATENCY_WINDOW:]:
            for edge, count in other.items():
                recent[edge] = recent.get(edge, 0.0) + count
        total = recent.get("le=+Inf", 0.0)
        if total < 0.5:
            return None
        edges = sorted(float(edge[3:]) for edge in recent if edge != "le=+Inf")
        return next((edge for edge in edges if recent[f"le={edge}"] >= 0.95 * total), 2 * edges[-1])

    def record(self, nodes: list[GpuNode], end: float) -> SideRecord:
        """The finished side."""
        services = []
        for at, service in enumerate(SERVICES):
            steps = self._steps[at]
            promise = f"Objective: first token in {TTFT_SECONDS:g} s"
            services.append(
                ServiceRecord(
                    name=service.name,
                    model=service.model,
                    what=f"{service.model}, emulated vLLM, {service.vram_mib / 1024:.0f} GiB on {service.card}",
                    promise=promise,
                    ttft_seconds=TTFT_SECONDS,
                    track=self.tracks[at],
                    met=round(sum(step.get(f"le={TTFT_SECONDS}", 0.0) for step in steps)),
                    requests=round(sum(step.get("le=+Inf", 0.0) for step in steps)),
                    starts=sum(share.start > 0 for share in self._recorder.shares[self.key] if share.service == at),
                )
            )
        return SideRecord(
            self.title,
            nodes,
            TICK_SECONDS,
            end,
            self.times,
            self._recorder.shares[self.key],
            self.held,
            self.busy,
            services,
        )


def gauges_of(address: str) -> dict[str, dict[str, dict[str, float]]]:
    """The emulator's samples by namespace, pod and name; histogram buckets as `le=EDGE`."""
    found: dict[str, dict[str, dict[str, float]]] = {SHARED: {}, WHOLE: {}}
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    for name, namespace, pod, edge, value in _SAMPLE.findall(text):
        if edge and name != "time_to_first_token_seconds_bucket":
            continue
        found[namespace].setdefault(pod, {})[f"le={edge}" if edge else name] = float(value)
    return found

"""An hour of agents at work in virtual time, kept by a real Prometheus, and the usage report over it.

The agents' own accounting and metrics run on scripted readings, five seconds apart; what they would have shown to a scrape every
15 s is written as OpenMetrics, turned into a block of Prometheus' store by promtool, and served by Prometheus. The devices' true
energy is known from the script, so the report can be held against it.
"""

import asyncio
import datetime
import math
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

import click
from prometheus_client import CollectorRegistry

from agent.cards.inventory import Inventory
from agent.cards.reader import CardReading, Missing, ProcessUse, Reading
from agent.energy.attribution import holders_of, usage_of
from agent.energy.books import Account
from agent.energy.tariff import Tariff, load_tariff
from agent.metrics import AgentMetrics, Snapshot
from agent.pods.index import NODE_POD, NodePod, PodIndex
from agent.usage.cli import table
from agent.usage.report import Grouping, Report, build_report
from agent.usage.source import read_usage
from headroom.errors import HeadroomError
from headroom.prometheus.client import PrometheusSource
from headroom.wire import encode
from simulations.kwok.process import free_port
from simulations.kwok.prometheus import PrometheusServer

_TARIFF: Final = Path(__file__).with_suffix(".yaml")

START: Final = datetime.datetime(2026, 11, 20, 12, 0, tzinfo=datetime.UTC).timestamp()
HOUR: Final = 3600.0
READ_SECONDS: Final = 5.0
SCRAPE_SECONDS: Final = 15.0
LEAD_SECONDS: Final = 600.0
"""The agents are there before the window begins, as they are in life."""
GIB: Final = 2**30
_JOULES_PER_KWH: Final = 3.6e6


class UsageRunError(HeadroomError):
    """Prometheus or promtool cannot be used here; the text says why."""


@dataclass(frozen=True)
class Workload:
    """A pod on a card for a part of the hour (seconds from the window's start)."""

    name: str
    project: str
    node: str
    card: int
    vram_gib: int
    sm_ratio: float
    """Mean multiprocessor share while it runs; it swings around it."""
    begins: float = -LEAD_SECONDS
    ends: float = HOUR + 1
    tokens_per_second: float = 0.0
    in_pod: bool = True
    """False for a process that somebody started on the machine itself."""


@dataclass(frozen=True)
class Machine:
    """A node with equal cards."""

    name: str
    model: str
    cards: int
    memory_gib: int
    idle_watts: float
    full_watts: float
    has_counter: bool = True
    """Whether the driver has an energy counter (Volta and newer)."""
    agent_away: tuple[float, float] = (math.inf, math.inf)
    """When no agent runs: a rolling update, a crash."""


MACHINES: Final = (
    Machine("gpu-1", "NVIDIA-A100-SXM4-80GB", 4, 80, 55.0, 400.0, agent_away=(1203.0, 1263.0)),
    Machine("gpu-2", "NVIDIA-L4", 2, 24, 12.0, 72.0),
    Machine("gpu-3", "Tesla-P100-PCIE-16GB", 1, 16, 26.0, 250.0, has_counter=False),
)
WORKLOADS: Final = (
    Workload("chat-70b-0", "assistant", "gpu-1", 0, 72, 0.62, tokens_per_second=1450),
    Workload("embed-0", "search", "gpu-1", 1, 20, 0.21, tokens_per_second=5200),
    Workload("rerank-0", "search", "gpu-1", 1, 24, 0.33),
    Workload("chat-13b-0", "assistant", "gpu-1", 1, 30, 0.28, begins=902, ends=2711, tokens_per_second=610),
    Workload("notebook-0", "research", "gpu-1", 2, 40, 0.0),
    Workload("mining", "", "gpu-1", 3, 6, 0.5, begins=1811, ends=2405, in_pod=False),
    Workload("summary-0", "mail", "gpu-2", 0, 16, 0.55, tokens_per_second=380),
    Workload("translate-0", "mail", "gpu-2", 1, 10, 0.4, begins=333, ends=1999, tokens_per_second=290),
    Workload("translate-1", "mail", "gpu-2", 1, 10, 0.4, begins=2021, tokens_per_second=290),
    Workload("ocr-0", "archive", "gpu-3", 0, 12, 0.7),
)


@dataclass
class _Card:
    """One scripted card and what it truly drew."""

    id: str
    index: int
    machine: Machine
    joules: float = 0.0
    """Since the driver was loaded, which was a while ago."""
    joules_at_start: float = 0.0
    watts: float = 0.0

    def reading(self, at: float) -> CardReading:
        """What the driver says at a time (seconds from the window's start), but for the energy counter."""
        running = [load for load in _loads_at(self.machine.name, at) if load.card == self.index]
        shares = {load.name: _swing(load, at) for load in running}
        total = min(sum(shares.values()), 1.0)
        self.watts = self.machine.idle_watts + (self.machine.full_watts - self.machine.idle_watts) * total
        processes = tuple(
            ProcessUse(
                _pid(load),
                load.vram_gib * GIB,
                shares[load.name],
                pod_uid=f"uid-{load.name}" if load.in_pod else "outside",
            )
            for load in running
        )
        used = sum(load.vram_gib for load in running) * GIB
        return CardReading(
            id=self.id,
            index=self.index,
            model=self.machine.model,
            memory_total_bytes=self.machine.memory_gib * GIB,
            memory_reserved_bytes=0,
            memory_used_bytes=used,
            utilization_ratio=min(1.4 * total, 1.0),
            sm_ratio=total,
            power_watts=self.watts,
            processes=processes,
        )


def _swing(load: Workload, at: float) -> float:
    """Requests come in waves; two incommensurable ones, so that no scrape interval fits."""
    wave = math.sin(at / 37.0 + len(load.name)) + 0.5 * math.sin(at / 11.3)
    return max(load.sm_ratio * (1 + 0.4 * wave), 0.0)


def _pid(load: Workload) -> int:
    return 1000 + WORKLOADS.index(load)


def _loads_at(node: str, at: float) -> list[Workload]:
    return [load for load in WORKLOADS if load.node == node and load.begins <= at < load.ends]


def _pod(load: Workload, card: str) -> NodePod:
    return NODE_POD.decode(
        encode(
            {
                "metadata": {
                    "name": load.name,
                    "namespace": f"team-{load.project}",
                    "uid": f"uid-{load.name}",
                    "labels": {"headroom.dev/project": load.project},
                    "annotations": {
                        "headroom.dev/assigned-cards": card,
                        "headroom.dev/assigned-vram-mib": str(load.vram_gib * 1024),
                        "headroom.dev/assigned-mode": "pinned",
                    },
                },
                "spec": {"nodeName": load.node, "containers": [{"name": "engine"}]},
                "status": {"phase": "Running", "startTime": "2026-11-20T00:00:00Z"},
            }
        )
    )


class _NodeRun:
    """The agent of one machine, without its clock, its driver and its API server."""

    def __init__(self, machine: Machine, tariff: Tariff) -> None:
        self.machine, self._tariff = machine, tariff
        self.cards = [
            _Card(f"GPU-{machine.name}-{index}", index, machine, joules=1e7 * (index + 1))
            for index in range(machine.cards)
        ]
        self._stepped_to = -LEAD_SECONDS
        self._begin()

    def _begin(self) -> None:
        registry = CollectorRegistry()
        account = Account(longest_gap_seconds=30.0, idle_watts=self._tariff.idle_watts)
        self.metrics = AgentMetrics(registry, node=self.machine.name, account=account, tariff=self._tariff)
        self._account, self._inventory = account, Inventory()

    def advance(self, to: float) -> None:
        """Let the cards draw power, and the agent read them at its own rhythm."""
        reads = self._stepped_to + READ_SECONDS
        while reads <= to:
            readings = []
            for card in self.cards:
                watts = card.watts
                after = card.reading(reads)
                card.joules += (watts + card.watts) / 2 * READ_SECONDS
                counter = int(card.joules * 1000) if self.machine.has_counter else Missing.NOT_SUPPORTED
                readings.append(replace(after, energy_millijoules=counter))
                if math.isclose(reads, 0.0, abs_tol=READ_SECONDS / 2):
                    card.joules_at_start = card.joules
            self._observe(reads, tuple(readings))
            self._stepped_to = reads
            reads += READ_SECONDS

    def _observe(self, at: float, readings: tuple[CardReading, ...]) -> None:
        low, high = self.machine.agent_away
        if low <= at < high:
            self._begin()  # the next agent starts from nothing
            return
        reading = Reading(at, readings)
        loads = [load for load in _loads_at(self.machine.name, at) if load.in_pod]
        pods = PodIndex(_pod(load, self.cards[load.card].id) for load in loads)
        cards = self._inventory.update(reading, {}, 1)
        usage = usage_of(reading, {}, pods)
        self._account.observe(reading, holders_of(pods, {}, cards, reading), usage.uses)
        self.metrics.snapshot = Snapshot(reading, cards, usage.memory, usage.unattributed_bytes)

    def scrape(self, at: float, file: IO[str]) -> None:
        """What Prometheus would have got."""
        low, high = self.machine.agent_away
        if low <= at < high:
            return
        for family in self.metrics.collect():
            for sample in family.samples:
                _write(file, sample.name, sample.labels, sample.value, START + at)


def _write(file: IO[str], name: str, labels: dict[str, str], value: float, at: float) -> None:
    inner = ",".join(f'{key}="{text}"' for key, text in labels.items())
    file.write(f"{name}{{{inner}}} {value!r} {at:.3f}\n")


@dataclass
class Outcome:
    """The report and the truth it is held against."""

    report: Report
    true_kwh: float
    """What all cards drew within the window."""
    true_kwh_by_model: dict[str, float] = field(default_factory=dict)


def write_metrics(path: Path, tariff: Tariff) -> dict[str, float]:
    """Write the hour as OpenMetrics; returns what the cards of each model truly drew, in kWh."""
    nodes = [_NodeRun(machine, tariff) for machine in MACHINES]
    with path.open("w", encoding="ascii") as file:
        at = -LEAD_SECONDS + SCRAPE_SECONDS
        while at <= HOUR:
            for node in nodes:
                node.advance(at)
                node.scrape(at, file)
            for load in WORKLOADS:
                if load.tokens_per_second and load.begins <= at < load.ends:
                    labels = {"namespace": f"team-{load.project}", "pod": load.name, "model_name": load.name}
                    made = load.tokens_per_second * (at - load.begins)
                    _write(file, "vllm:generation_tokens_total", labels, made, START + at)
            at += SCRAPE_SECONDS
        file.write("# EOF\n")
    truth: dict[str, float] = {}
    for node in nodes:
        joules = sum(card.joules - card.joules_at_start for card in node.cards)
        truth[node.machine.model] = truth.get(node.machine.model, 0.0) + joules / _JOULES_PER_KWH
    return truth


@contextmanager
def prometheus_of(metrics: Path, folder: Path) -> Iterator[str]:
    """A Prometheus on a free loopback port that holds the samples of an OpenMetrics file; yields its address. Raises UsageRunError."""
    port = free_port()
    server = PrometheusServer(folder / "prometheus", port)
    data = folder / "prometheus" / "data"
    promtool = shutil.which("promtool")
    if promtool is None:
        raise UsageRunError("no `promtool` on the PATH: it comes with Prometheus")
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(metrics), str(data)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise UsageRunError(f"promtool: {result.stderr.strip()[-500:]}")
    command = [*server.command(), "--storage.tsdb.retention.time=20y"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            _until_ready(f"{server.url}/-/ready", process)
            yield server.url
        finally:
            process.terminate()


def _until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise UsageRunError("Prometheus did not become ready")


async def run_hour(folder: Path, by: Sequence[Grouping], tariff: Tariff) -> list[Outcome]:
    """The reports over the hour, one for each grouping. Raises UsageRunError, PrometheusError."""
    metrics = folder / "hour.om"
    truth = write_metrics(metrics, tariff)
    with prometheus_of(metrics, folder) as url:
        source = PrometheusSource(url, timeout_seconds=60.0)
        try:
            usage = await read_usage(source, START, START + HOUR)
        finally:
            await source.close()
    return [Outcome(build_report(usage, grouping, tariff), sum(truth.values()), truth) for grouping in by]


@click.command()
@click.option(
    "--by", type=click.Choice([grouping.value for grouping in Grouping]), default="project", show_default=True
)
@click.option(
    "--tariff", default=str(_TARIFF), help="Prices and factors; see docs/usage.md. Default: illustrative ones."
)
def main(by: str, tariff: str) -> None:
    """An hour of three nodes in virtual time, kept by a real Prometheus: the usage report, held against the truth."""
    with tempfile.TemporaryDirectory(prefix="headroom-usage-") as folder:
        (outcome,) = asyncio.run(run_hour(Path(folder), [Grouping(by)], load_tariff(tariff)))
    click.echo(table(outcome.report))
    total = outcome.report.total.kwh
    parts = sum(line.kwh for line in outcome.report.all_lines()) - total
    click.echo(
        f"the cards drew {outcome.true_kwh:.6f} kWh; the report's total is {total:.6f} kWh ({_off(total, outcome.true_kwh)})"
    )
    click.echo(f"its lines add up to {parts:.6f} kWh ({_off(parts, total)})")


def _off(value: float, truth: float) -> str:
    return f"{abs(100 * (value / truth - 1)):.4f} % off"


if __name__ == "__main__":
    main()

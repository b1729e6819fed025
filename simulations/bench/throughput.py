"""`headroom bench throughput`: pods per second on a real control plane, with and without the extender, in turn.

Each leg is a backlog: the scheduler (and the extender) are up and paused while the pods are created, then let go at once; the time
runs from there to the last binding, so that whatever is done ahead of the scheduler is in it. Legs of one round follow each other on the
same cluster, so that what else the machine does hits all of them.
"""

import json
import platform
import signal
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click

from headroom import names
from simulations.kwok.cluster import Cluster, scheduler_config
from simulations.kwok.nodes import uniform_nodes
from simulations.kwok.process import free_port

_PODS: Final = "/api/v1/namespaces/default/pods"
_LONGEST_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class Leg:
    """One measured backlog."""

    nodes: int
    pods: int
    round: int
    kind: str
    """`vanilla`, `extender` or `ahead`."""
    seconds: float

    @property
    def pods_per_second(self) -> float:
        """Throughput over the whole backlog."""
        return self.pods / self.seconds


def _pod(name: str, *, vram: bool) -> dict[str, Any]:
    """A pod for a GPU: a card as plain Kubernetes has it, or 20 GiB of one.

    Either way it names one extended resource: kube-scheduler checks such names by regular expression on every node, a third
    of its time at 5,000 nodes, so that pods without one would be no comparison.
    """
    demand = {names.RESOURCE_VRAM: "20Gi"} if vram else {names.RESOURCE_NVIDIA_GPU: "1"}
    limits = {"cpu": "1", "memory": "1Gi", **demand}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "bench"}},
        "spec": {
            "schedulerName": names.SCHEDULER_NAME,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "containers": [{"name": "main", "image": "server", "resources": {"limits": limits, "requests": limits}}],
        },
    }


class _Bench:
    def __init__(self, cluster: Cluster, nodes: int, pods: int) -> None:
        self._cluster, self._nodes, self._pods = cluster, nodes, pods

    def leg(self, kind: str, number: int) -> Leg:
        """Measure one backlog of one kind, and clear up after it."""
        components = self._start(kind)
        try:
            self._warm_up(kind)
            for component in components:
                component.signal(signal.SIGSTOP)
            self._cluster.api.create_all(
                (_PODS, _pod(f"{kind}-{number}-{at:05d}", vram=kind != "vanilla")) for at in range(self._pods)
            )
            start = time.perf_counter()
            for component in components:
                component.signal(signal.SIGCONT)
            self._wait_bound(self._pods)
            seconds = time.perf_counter() - start
        finally:
            for component in components:
                component.kill()
            self._clear()
        return Leg(self._nodes, self._pods, number, kind, seconds)

    def _start(self, kind: str) -> Sequence[Any]:
        config: Mapping[str, Any]
        if kind == "vanilla":
            config = scheduler_config(scheduler_names=(names.SCHEDULER_NAME,))
            return [self._cluster.add_scheduler("bench-scheduler", config)]
        port = free_port()
        config = scheduler_config(
            extender_url=f"http://127.0.0.1:{port}",
            scheduler_names=(names.SCHEDULER_NAME,),
            managed_resources=(names.RESOURCE_VRAM,),
        )
        extender = self._cluster.daemon(
            "scheduler", "--port", str(port), "--naming-ahead", str(kind == "ahead").lower(), "--log-level", "WARNING",
            name="bench-extender", ready_url=f"http://127.0.0.1:{port}/readyz", timeout_seconds=120.0,
        )  # fmt: skip
        return [extender, self._cluster.add_scheduler("bench-scheduler", config)]

    def _warm_up(self, kind: str) -> None:
        """One pod bound and gone: every cache is filled, every connection open."""
        self._cluster.api.create_all([(_PODS, _pod("warm-up", vram=kind != "vanilla"))])
        self._wait_bound(1)
        self._clear()
        time.sleep(1.0)

    def _wait_bound(self, count: int) -> None:
        """Ask by count alone: listing the pods themselves would take the processor from what is measured."""
        deadline = time.monotonic() + _LONGEST_SECONDS
        while True:
            query = {"fieldSelector": "spec.nodeName=", "limit": "1"}
            answer = self._cluster.api.get(_PODS, **query)
            if not answer["items"]:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} pods were not bound within {_LONGEST_SECONDS:.0f} s")
            time.sleep(0.1)

    def _clear(self) -> None:
        now = {"gracePeriodSeconds": 0}
        while pods := self._cluster.pods("default"):
            self._cluster.api.delete_all((f"{_PODS}/{pod['metadata']['name']}" for pod in pods), now)


def measure(nodes: int, pods: int, rounds: int, kinds: Sequence[str]) -> list[Leg]:
    """All legs at one size of cluster; prints each as it ends."""
    legs = []
    with Cluster.start(nodes=uniform_nodes(nodes), without=("kube-scheduler", "kwok")) as cluster:
        # It was needed for the service account only; its reactions to pods would be measured too.
        cluster.component("kube-controller-manager").stop()
        bench = _Bench(cluster, nodes, pods)
        for number in range(rounds):
            for kind in kinds:
                legs.append(bench.leg(kind, number))
                click.echo(
                    f"  {nodes} nodes, round {number + 1}, {kind}: {legs[-1].pods_per_second:.1f} pods/s", err=True
                )
    return legs


def _summary(legs: Sequence[Leg], nodes: int) -> list[str]:
    lines = []
    by_round: dict[int, dict[str, Leg]] = {}
    for leg in legs:
        if leg.nodes == nodes:
            by_round.setdefault(leg.round, {})[leg.kind] = leg
    kinds = list(next(iter(by_round.values())))
    for kind in kinds:
        speed = statistics.median(found[kind].pods_per_second for found in by_round.values())
        line = f"| {nodes:,} | {kind} | {speed:.1f} |"
        if "vanilla" in kinds:
            ratio = statistics.median(
                found[kind].pods_per_second / found["vanilla"].pods_per_second for found in by_round.values()
            )
            line += f" {ratio:.2f} |"
        lines.append(line)
    return lines


@click.command()
@click.option(
    "--nodes",
    "sizes",
    type=click.IntRange(1),
    multiple=True,
    default=(1000, 5000),
    show_default=True,
    help="Cluster sizes.",
)
@click.option("--pods", type=click.IntRange(1), default=1500, show_default=True, help="Pods in each backlog.")
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Alternating rounds; medians are over these."
)
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(["vanilla", "extender", "ahead"]),
    default=("vanilla", "extender", "ahead"), show_default=True,
    help="kube-scheduler alone; with the extender; with the extender naming nodes ahead.",
)  # fmt: skip
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Also write every leg here.")
def main(sizes: tuple[int, ...], pods: int, rounds: int, kinds: tuple[str, ...], path: Path | None) -> None:
    """Pods bound per second on a real control plane, from a backlog, with and without the extender, in turn."""
    legs: list[Leg] = []
    for nodes in sizes:
        legs += measure(nodes, pods, rounds, kinds)
    click.echo("| nodes | scheduler | pods/s | of kube-scheduler alone |\n|---|---|---|---|")
    for nodes in sizes:
        click.echo("\n".join(_summary(legs, nodes)))
    if path is not None:
        rows = [asdict(leg) | {"pods_per_second": leg.pods_per_second} for leg in legs]
        path.write_text(json.dumps({"machine": platform.platform(), "legs": rows}, indent=1), encoding="utf-8")

"""`headroom bench extender` and `headroom bench memory`: the extender alone, without a control plane."""

import json
import platform
from dataclasses import asdict
from pathlib import Path

import click

from scheduler.placement.policies.registry import POLICIES
from simulations.bench.extender_latency import BARE, measure_latency
from simulations.bench.extender_memory import measure_memory


def _write(path: Path | None, rows: list[dict[str, object]]) -> None:
    if path is not None:
        path.write_text(json.dumps({"machine": platform.platform(), "rows": rows}, indent=1), encoding="utf-8")


@click.command()
@click.option(
    "--nodes",
    "sizes",
    type=click.IntRange(1),
    multiple=True,
    default=(100, 1000, 5000),
    show_default=True,
    help="Cluster sizes.",
)
@click.option(
    "--pods-per-node",
    "fillings",
    type=click.IntRange(0),
    multiple=True,
    default=(0, 8),
    show_default=True,
    help="Bound pods.",
)
@click.option(
    "--calls", type=click.IntRange(1), default=1000, show_default=True, help="Pods filtered and bound at each size."
)
@click.option(
    "--policy", type=click.Choice(list(POLICIES)), default="headroom", show_default=True, help="Placement policy."
)
@click.option("--strangers", is_flag=True, help="While others ask for all open pages without a pause.")
@click.option(
    "--group-size",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Pods come in groups of so many, which are placed together.",
)
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Also write the figures here.")
def latency(
    sizes: tuple[int, ...],
    fillings: tuple[int, ...],
    calls: int,
    policy: str,
    strangers: bool,
    group_size: int,
    path: Path | None,
) -> None:
    """Latency of filter and bind over HTTP, by cluster size, with empty and with filled nodes.

    Filter includes the choice and the reservation. Bind includes everything but the API server, which answers at once.
    `bare` is a filter call to an aiohttp handler that reads the same body and answers one fixed name, asked in turn with the
    extender; the ratios are against it. Times are round trips; CPU is the server's processor time per call.
    """
    click.echo("| nodes | pods per node | verb | p50 ms | p99 ms | max ms | CPU ms | p50 of bare | p99 of bare |")
    click.echo("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for nodes in sizes:
        for pods_per_node in fillings:
            measured = measure_latency(nodes, pods_per_node, calls, policy, strangers=strangers, group_size=group_size)
            bare = next(found for found in measured if found.verb == BARE)
            for found in measured:
                ratios = {"p50_of_bare": found.p50_ms / bare.p50_ms, "p99_of_bare": found.p99_ms / bare.p99_ms}
                click.echo(
                    f"| {found.nodes:,} | {found.pods_per_node} | {found.verb} | {found.p50_ms:.2f} | {found.p99_ms:.2f} |"
                    f" {found.max_ms:.1f} | {found.cpu_ms:.2f} | {ratios['p50_of_bare']:.2f} | {ratios['p99_of_bare']:.2f} |"
                )
                rows.append(asdict(found) | ratios)
    _write(path, rows)


@click.command()
@click.option("--nodes", type=click.IntRange(1), default=5000, show_default=True, help="Nodes with eight cards each.")
@click.option("--pods-per-node", type=click.IntRange(0), default=8, show_default=True, help="Bound pods on each.")
@click.option(
    "--claims-per-node",
    type=click.IntRange(0, 8),
    default=0,
    show_default=True,
    help="Resource claims on each, and a ResourceSlice.",
)
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Also write the figures here.")
def memory(nodes: int, pods_per_node: int, claims_per_node: int, path: Path | None) -> None:
    """Start-up time and memory: `headroom scheduler` against an API server that lists so many nodes and pods.

    The lists are real HTTP in pages, the objects as large as real ones (about 2 KiB a pod).
    """
    found = measure_memory(nodes, pods_per_node, claims_per_node)
    click.echo("| nodes | pods | claims | ready after s | memory MB | largest memory MB |\n|---|---|---|---|---|---|")
    seen = f"| {found.nodes:,} | {found.pods:,} | {nodes * claims_per_node:,} "
    click.echo(f"{seen}| {found.ready_seconds:.1f} | {found.resident_mb:.0f} | {found.peak_mb:.0f} |")
    _write(path, [asdict(found)])

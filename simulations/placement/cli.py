"""`headroom simulate placement`: pod lists against placement policies, many seeds, on as many processes as asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from headroom.errors import HeadroomError
from scheduler.placement.policies.registry import POLICIES
from simulations.placement.bound import bound_percent
from simulations.placement.experiment import Job, Progress, Study, Trace, run_jobs
from simulations.placement.replay import Record
from simulations.placement.report import read_results, write_results
from simulations.placement.tables import (
    Figures,
    matrix_table,
    published_table,
    read_published,
    summary_table,
    timeline_table,
)
from simulations.placement.traces import read_nodes, read_pods

_LEARNED: Final = "-learned"
_MATRIX_LOADS: Final = (100, 130)


class PlacementUsageError(HeadroomError):
    """A flag whose value cannot be used."""


def parse_seeds(text: str) -> list[int]:
    """`42:51` (both ends included), `42` or `1,5,9`. Raises PlacementUsageError."""
    try:
        if ":" in text:
            first, last = (int(part) for part in text.split(":"))
            seeds = list(range(first, last + 1))
        else:
            seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise PlacementUsageError(f"--seeds: {text!r} is not like 42:51, 42 or 1,5,9") from None
    if not seeds or min(seeds) < 0:
        raise PlacementUsageError(f"--seeds: {text!r} names no seed of 0 or above")
    return list(dict.fromkeys(seeds))


def parse_policies(text: str) -> list[str]:
    """Policy names; `-learned` behind one means: its profile comes from the arrivals so far. Raises PlacementUsageError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name.removesuffix(_LEARNED) not in POLICIES:
            raise PlacementUsageError(f"--policies: unknown policy {name!r}; known: {', '.join(POLICIES)}")
    if not names:
        raise PlacementUsageError("--policies: names no policy")
    return list(dict.fromkeys(names))


def trace_name(path: Path) -> str:
    """`openb_pod_list_cpu050.csv.gz` -> `cpu050`."""
    return path.name.removesuffix(".gz").removesuffix(".csv").removeprefix("openb_pod_list_")


@click.command()
@click.option("--nodes", type=click.Path(path_type=Path), help="Node list, CSV or CSV.gz in the openb columns.")
@click.option("--pods", type=click.Path(path_type=Path), multiple=True, help="Pod list; may be given several times.")
@click.option(
    "--on",
    type=click.Choice(["process", "kwok"]),
    default="process",
    show_default=True,
    help="kwok: the pods go through a real kube-scheduler and the extender, on simulated nodes; one run after the other.",
)
@click.option(
    "--scenario",
    type=click.Choice(["openb", "vram"]),
    default="openb",
    show_default=True,
    help="openb: the lists given, in thousandths of a card. vram: generated inference pods with memory in GiB.",
)
@click.option("--departures", is_flag=True, help="With --scenario vram: pods live and leave; the table goes over time.")
@click.option(
    "--policies",
    default="random,dotprod,gpuclustering,gpupacking,bestfit,fgd,headroom",
    show_default=True,
    help="Comma-separated; NAME-learned takes the workload profile from the arrivals so far, not from the list.",
)
@click.option(
    "--load", type=click.FloatRange(0.1, 5.0), default=1.3, show_default=True, help="Demand over the cluster's GPU."
)
@click.option(
    "--seeds", default="42:51", show_default=True, help="One run per seed: FIRST:LAST or a comma-separated list."
)
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes.")
@click.option("--published", type=click.Path(path_type=Path), help="CSV of published allocation to compare with.")
@click.option(
    "--bound",
    is_flag=True,
    help="Beside the policies, the most that one could allocate which refuses no pod that fits (some 10 s a list).",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    multiple=True,
    help="results.json of an earlier run with the same --load: its runs are not repeated.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for results.json, results.csv, tables.md, plots.",
)
def main(
    nodes: Path | None,
    pods: tuple[Path, ...],
    scenario: str,
    on: str,
    departures: bool,
    policies: str,
    load: float,
    seeds: str,
    jobs: int,
    published: Path | None,
    bound: bool,
    resume: tuple[Path, ...],
    out: Path | None,
) -> None:
    """Replay pod lists against placement policies and print how much of the cluster each gets to use."""
    names, seed_list = parse_policies(policies), parse_seeds(seeds)
    if scenario == "vram":
        if nodes or pods:
            raise PlacementUsageError("--nodes and --pods belong to --scenario openb; the vram scenario makes its own")
        traces: list[Trace] = [Trace("vram-departures" if departures else "vram", (), ())]
    else:
        traces = _read_traces(nodes, pods)
        if departures:
            raise PlacementUsageError("--departures belongs to --scenario vram: the published protocol has none")
    if on == "kwok" and (scenario == "vram" or jobs > 1 or any(name.endswith(_LEARNED) for name in names)):
        raise PlacementUsageError("--on kwok: needs pod lists and --jobs 1; the extender always learns its profile")
    if bound and scenario == "vram":
        raise PlacementUsageError("--bound belongs to --scenario openb: it counts in thousandths of a card")
    figures = None if published is None else read_published(published)
    study = Study(scenario="kwok" if on == "kwok" else scenario, departures=departures, load=load, traces=tuple(traces))
    work = [Job(at, policy, seed) for at in range(len(traces)) for policy in names for seed in seed_list]
    finished = {(r.trace, r.policy, r.seed): r for path in resume for r in read_results(path)}
    done = {job: finished[key] for job in work if (key := (traces[job.trace].name, job.policy, job.seed)) in finished}
    missing = [job for job in work if job not in done]
    done.update(zip(missing, run_jobs(study, missing, jobs, Progress(len(missing))), strict=True))
    records = [done[job] for job in work]
    tables = timeline_table(records) if departures else _tables(records, traces if bound else [], figures)
    click.echo(tables)
    if out is not None:
        for line in write_results(out, records, tables):
            click.echo(line, err=True)


def _tables(records: Sequence[Record], bounded: Sequence[Trace], figures: Figures | None) -> str:
    parts = []
    for load in _MATRIX_LOADS:
        if any(load in record.alloc_at for record in records):
            bounds = {trace.name: bound_percent(trace.nodes, trace.pods, load / 100) for trace in bounded}
            parts.append(matrix_table(records, load, published=figures, bounds=bounds))
    parts.append(summary_table(records))
    if figures is not None:
        parts.append(published_table(records, figures))
    return "\n\n".join(parts)


def _read_traces(nodes: Path | None, pods: tuple[Path, ...]) -> list[Trace]:
    if nodes is None or not pods:
        raise PlacementUsageError("--nodes and at least one --pods are needed (or --scenario vram)")
    node_list = tuple(read_nodes(nodes))
    traces = [Trace(trace_name(path), node_list, tuple(read_pods(path, list(node_list)))) for path in pods]
    names = [trace.name for trace in traces]
    for name in names:
        if names.count(name) > 1:
            raise PlacementUsageError(f"--pods: two lists are named {name!r}")
    return traces

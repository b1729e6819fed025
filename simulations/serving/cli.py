"""`headroom simulate serving`: request traces under autoscaling laws, with a table, results.json and figures."""

import gc
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click

from headroom.errors import HeadroomError
from headroom.units import UnitError, parse_duration_seconds
from simulations.serving.arena import Conditions, Workload, check, initial_replicas
from simulations.serving.engine.hardware import bundled_pairs, find_pair, read_pairs
from simulations.serving.fleet.placing import SharedFleet, uniform_fleet
from simulations.serving.fleet.routers import ROUTERS
from simulations.serving.laws.base import Entry, Objective, Parameters
from simulations.serving.laws.catalogue import LAWS, OURS, law_by_name
from simulations.serving.loads.patterns import PATTERNS, parse_pattern
from simulations.serving.loads.traces import FORMATS, Trace, read_trace
from simulations.serving.suite import plots, tables, tuning
from simulations.serving.suite.results import Outcome, work_bound_gpu_hours
from simulations.serving.suite.search import search
from simulations.serving.suite.tuning import Point

_DEFAULT_LAWS = ",".join(LAWS)


class ServingUsageError(HeadroomError):
    """A flag whose value cannot be used."""


def parse_objective(text: str) -> Objective:
    """`ttft=2s,itl=0.1s`. Raises ServingUsageError."""
    values: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name.strip() not in {"ttft", "itl"}:
            raise ServingUsageError(f"--slo: {part!r} is not ttft=TIME or itl=TIME")
        try:
            values[name.strip()] = parse_duration_seconds(value)
        except UnitError as error:
            raise ServingUsageError(f"--slo: {error}") from error
    if set(values) != {"ttft", "itl"} or min(values.values()) <= 0:
        raise ServingUsageError(f"--slo: {text!r} must give both ttft and itl, above 0")
    return Objective(values["ttft"], values["itl"])


def parse_settings(items: Sequence[str]) -> dict[str, dict[str, float]]:
    """`headroom.target=0.85` as law -> parameter -> value. Raises ServingUsageError."""
    found: dict[str, dict[str, float]] = {}
    for item in items:
        place, _, value = item.partition("=")
        law, _, name = place.partition(".")
        try:
            found.setdefault(law_by_name(law).name, {})[name] = float(value)
        except ValueError:
            raise ServingUsageError(f"--set: {item!r} is not LAW.PARAMETER=NUMBER") from None
        known = {*LAWS[law].defaults, *LAWS[law].space}
        if law not in OURS and name not in known:
            raise ServingUsageError(f"--set: {law} has no parameter {name!r}; there are {', '.join(sorted(known))}")
    return found


def parse_seeds(text: str) -> list[int]:
    """`1`, `1,2,3` or `1:5` (both ends included). Raises ServingUsageError."""
    try:
        if ":" in text:
            first, last = map(int, text.split(":"))
            seeds = list(range(first, last + 1))
        else:
            seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise ServingUsageError(f"--seeds: {text!r} is not like 1, 1,2,3 or 1:5") from None
    if not seeds:
        raise ServingUsageError(f"--seeds: {text!r} names no seed")
    return seeds


@dataclass(frozen=True, slots=True)
class Load:
    """How the traces given are turned into requests."""

    form: str
    copies: int
    shift_seconds: float
    start_seconds: float
    duration_seconds: float | None
    seed: int

    def trace(self, text: str) -> Trace:
        """Read or generate one trace. Raises TraceError."""
        trace = parse_pattern(text, self.seed) if text.startswith("pattern:") else read_trace(Path(text), self.form)
        if self.start_seconds or self.duration_seconds:
            trace = trace.part(self.start_seconds, self.duration_seconds or float("inf"))
        return trace.copies(self.copies, self.shift_seconds)


def _duration(_: click.Context, option: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return parse_duration_seconds(value)
    except UnitError as error:
        raise ServingUsageError(f"--{option.name}: {error}") from error


@click.command()
@click.option(
    "--trace",
    "traces",
    multiple=True,
    required=True,
    help=f"A file (plain or .gz), or pattern:NAME[,rate=20][,hours=2], NAME one of {', '.join(PATTERNS)}. Several share one fleet.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="auto", show_default=True)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Model of each trace, in order; the last counts on.  [default: llama-3.1-8b]",
)
@click.option("--card", "cards", multiple=True, help="Card of each model, likewise.  [default: L40S]")
@click.option("--slo", default="ttft=2s,itl=0.1s", show_default=True)
@click.option("--laws", default=_DEFAULT_LAWS, help="Names, separated by commas.  [default: all]")
@click.option("--set", "settings", multiple=True, metavar="LAW.PARAMETER=NUMBER", help="Change a parameter of a law.")
@click.option(
    "--tune", is_flag=True, help="Look for each law's best setting, over all its fields; report default and tuned."
)
@click.option(
    "--budget", default=20, show_default=True, type=click.IntRange(1), help="Settings that --tune tries of each law."
)
@click.option("--attainment", default=0.98, show_default=True, help="What the tuned setting of a law must reach.")
@click.option("--seeds", default="1", show_default=True, help="Draws of cold starts: 1, 1,2,3 or 1:5.")
@click.option(
    "--copies",
    default=1,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Lay each trace over itself so many times.",
)
@click.option("--shift", default="17s", show_default=True, callback=_duration, help="Between copies.")
@click.option(
    "--start", default="0s", show_default=True, callback=_duration, help="Leave out the beginning of each trace."
)
@click.option("--duration", default=None, callback=_duration, help="Take only so much of each trace.")
@click.option("--min", "least", default=1, show_default=True, type=click.IntRange(0))
@click.option("--max", "most", default=32, show_default=True, type=click.IntRange(1))
@click.option(
    "--initial",
    default=0,
    type=click.IntRange(0),
    help="Replicas at the start.  [default: what the first five minutes need]",
)
@click.option("--nodes", default=8, show_default=True, type=click.IntRange(1, 10_000), help="Nodes of each card model.")
@click.option("--cards-per-node", default=8, show_default=True, type=click.IntRange(1, 64))
@click.option("--policy", default="headroom", show_default=True, help="Placement policy.")
@click.option("--scrape", default="15s", show_default=True, callback=_duration)
@click.option("--delay", default="5s", show_default=True, callback=_duration, help="From a scrape until laws see it.")
@click.option("--tick", default="15s", show_default=True, callback=_duration)
@click.option(
    "--router",
    default="least-requests",
    show_default=True,
    type=click.Choice(sorted(ROUTERS)),
    help="random: a Service.",
)
@click.option("--cold-nodes", is_flag=True, help="The first replica on a node also waits for the node.")
@click.option(
    "--pairs",
    "pairs_file",
    type=click.Path(path_type=Path),
    help="Figures of model/card pairs, instead of the bundled ones.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for results.json, the table and the figures; must not exist yet.",
)
def main(
    traces: tuple[str, ...], form: str, models: tuple[str, ...], cards: tuple[str, ...], slo: str, laws: str,
    settings: tuple[str, ...], tune: bool, budget: int, attainment: float, seeds: str, copies: int, shift: float, start: float,
    duration: float | None, least: int, most: int, initial: int, nodes: int, cards_per_node: int, policy: str, scrape: float,
    delay: float, tick: float, router: str, cold_nodes: bool, pairs_file: Path | None, out: Path | None,
) -> None:  # fmt: skip
    """Replay request traces against scaling laws on one fleet, in virtual time."""
    if out is not None and out.exists():
        raise ServingUsageError(f"--out: {out} exists already; name a new folder or remove it")
    if min(scrape, tick) <= 0:
        raise ServingUsageError("--scrape and --tick must be above 0")
    if not 0 < attainment <= 1:
        raise ServingUsageError(f"--attainment: {attainment:g} is not a share above 0 and at most 1")
    entries = [law_by_name(name.strip()) for name in laws.split(",") if name.strip()]
    changed = parse_settings(settings)
    objective, draws = parse_objective(slo), parse_seeds(seeds)
    pairs = bundled_pairs() if pairs_file is None else read_pairs(pairs_file)
    load = Load(form, copies, shift, start, duration, draws[0])
    workloads, fleet = [], {}
    for at, text in enumerate(traces):
        model, card = _nth(models, at, "llama-3.1-8b"), _nth(cards, at, "L40S")
        pair = find_pair(pairs, model, card)
        workload = Workload(load.trace(text), pair, objective, least, most, initial)
        check(workload)
        workloads.append(workload)
        fleet[card] = uniform_fleet(card, pair.card_vram_mib, nodes, cards_per_node)
    if len({workload.name for workload in workloads}) < len(workloads):
        raise ServingUsageError("the same trace with the same model twice: give it another model, or use --copies")
    conditions = Conditions(
        [node for part in fleet.values() for node in part],
        policy=policy, scrape_seconds=scrape, delay_seconds=delay, tick_seconds=tick, cold_nodes=cold_nodes, router=router,
    )  # fmt: skip
    shared = SharedFleet(conditions.nodes, conditions.policy)
    for workload in workloads:
        shared.cards_for(workload.pair)
        _say(workload)
    points = _run(entries, workloads, conditions, draws, changed, budget if tune else 1, attainment)
    text = report(workloads, points, attainment, tune)
    click.echo(text)
    if out is not None:
        write(out, text, workloads, points, objective, draws, attainment)
        click.echo(f"written to {out}", err=True)


def _nth(given: tuple[str, ...], at: int, default: str) -> str:
    return given[min(at, len(given) - 1)] if given else default


def _say(workload: Workload) -> None:
    trace, pair = workload.trace, workload.pair
    limit = min(pair.context_tokens, pair.speed.kv_tokens)
    beyond = sum(p + o > limit for p, o in zip(trace.prompt_tokens, trace.output_tokens, strict=True))
    notes = [*trace.notes, *([f"{beyond} requests exceed {limit} tokens and are dropped"] if beyond else [])]
    count = workload.initial_replicas or initial_replicas(workload)
    click.echo(
        f"{pair.name}: {trace.name}, {len(trace)} requests in {trace.span_seconds:.0f} s, {count} replicas at the start"
        + "".join(f"; {note}" for note in notes),
        err=True,
    )


def _run(
    entries: Sequence[Entry],
    workloads: Sequence[Workload],
    conditions: Conditions,
    seeds: Sequence[int],
    changed: dict[str, dict[str, float]],
    budget: int,
    attainment: float,
) -> list[Point]:
    points: list[Point] = []
    drawn: dict[str, int] = {}

    def judge(entry: Entry, setting: Parameters) -> Outcome:
        setting = {**setting, **changed.get(entry.name, {})}
        click.echo(f"[{len(points) + 1}] {entry.name} {tables.setting_text(entry, setting)}", err=True)
        points.append(tuning.measure(workloads, entry, setting, conditions, seeds))
        outcome = points[-1].total
        _keep_best(points, drawn, attainment)
        return outcome

    gc.disable()  # what a run makes is freed as it goes: a collection would only walk the traces
    try:
        for entry in entries:
            search(entry, budget, attainment, partial(judge, entry))
    finally:
        gc.enable()
    return points


def _keep_best(points: list[Point], drawn: dict[str, int], attainment: float) -> None:
    """Requests of a run weigh much: only the best run of each law keeps them, for its figure."""
    law, loser = points[-1].law, len(points) - 1
    best = drawn.setdefault(law, loser)
    if best == loser:
        return
    if tuning.best_setting([points[best], points[loser]], attainment) is points[loser]:
        drawn[law], loser = loser, best
    points[loser] = replace(points[loser], lanes=())


def report(workloads: Sequence[Workload], points: Sequence[Point], attainment: float, tune: bool) -> str:
    """The table: each law as its documentation has it and, when tuned, at its best for the attainment."""
    by_law: dict[str, list[Point]] = {}
    for point in points:
        by_law.setdefault(point.law, []).append(point)
    seer = by_law.get("clairvoyant")
    clairvoyant = tuning.best_setting(seer, attainment).total.gpu_hours if seer else None
    rows = []
    for law, own in by_law.items():
        entry = LAWS[law]
        shown = [own[0]]
        if tune and len(own) > 1 and (best := tuning.best_setting(own, attainment)) is not own[0]:
            shown.append(best)
        for point in shown:
            setting = tables.setting_text(entry, point.parameters)
            rows.append(tables.row(entry.title, setting, point.total, clairvoyant))
            if len(workloads) > 1:
                rows += [tables.row(f"  {name}", "", outcome, None) for name, outcome in point.by_workload.items()]
    bound = sum(work_bound_gpu_hours(w.trace, w.pair, w.objective) for w in workloads)
    lines = [
        tables.markdown(tables.HEAD, rows),
        "",
        f"No law can serve this load within the objective in less than {bound:.2f} GPU hours.",
    ]
    if tune:
        lines.append(
            f"Tuned: fewest GPU hours among the settings with at least {100 * attainment:g} %, else the highest attainment."
        )
    return "\n".join(lines)


def write(
    out: Path,
    text: str,
    workloads: Sequence[Workload],
    points: Sequence[Point],
    objective: Objective,
    seeds: Sequence[int],
    attainment: float,
) -> None:
    """All files at once: they are made in a folder beside `out`, which then takes its name."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        part = Path(folder) / out.name
        part.mkdir()
        part.joinpath("table.md").write_text(text + "\n", "utf-8")
        document = {
            "objective": {"ttft_seconds": objective.ttft_seconds, "itl_seconds": objective.itl_seconds},
            "seeds": list(seeds),
            "workloads": [
                {
                    "name": w.name,
                    "pair": w.pair.name,
                    "requests": len(w.trace),
                    "span_seconds": w.trace.span_seconds,
                    "notes": list(w.trace.notes),
                    "work_bound_gpu_hours": work_bound_gpu_hours(w.trace, w.pair, w.objective),
                }
                for w in workloads
            ],
            "runs": [tables.point_json(point) for point in points],
            "front": tables.front_json(points),
        }
        part.joinpath("results.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        if plots.available():
            _draw(part, points, attainment)
        else:
            click.echo("no figures: matplotlib is not installed (extra `plots`)", err=True)
        part.rename(out)


def _draw(folder: Path, points: Sequence[Point], attainment: float) -> None:
    plots.attainment(points, {name: entry.title for name, entry in LAWS.items()}, folder / "attainment.svg")
    for law in dict.fromkeys(point.law for point in points):
        best = tuning.best_setting([point for point in points if point.law == law], attainment)
        for number, lane in enumerate(best.lanes, start=1):
            title = f"{LAWS[law].title}: {lane.workload.name}"
            plots.timeline(lane, title, folder / f"timeline-{law}-{number}.svg")

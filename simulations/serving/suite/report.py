"""Tables of the published comparison from the runs that are there; a cell whose runs are missing shows `...`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from simulations.serving.laws.catalogue import LAWS, RIVALS
from simulations.serving.laws.catalogue import OURS as OUR_FORMS
from simulations.serving.suite import speed, tables
from simulations.serving.suite.compare import Bench, Scored, Study, candidates
from simulations.serving.suite.results import Outcome, work_bound_gpu_hours
from simulations.serving.suite.scenarios import LOADS, SHARE, TUNED_ON, Load
from simulations.serving.suite.search import Judged, cost, spread

MISSING: Final = "..."
OURS: Final = "headroom"
SEER: Final = "clairvoyant"
FIRST_BURST: Final = "first burst"
"""Kind of the loads that nobody can foresee: they have a table of their own, and no goal speaks of them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One law on one load, as far as it was run."""

    law: str
    default: Scored | None
    tuned: Scored | None
    tried: int


class Book:
    """All that was measured."""

    def __init__(self, study: Study, loads: Sequence[str], laws: Sequence[str]) -> None:
        self.study = study
        self.loads = [LOADS[name] for name in loads]
        self.laws = [name for name in LAWS if name in laws]
        self._rows = {(load.name, law): self._row(load, law) for load in self.loads for law in self.laws}

    def _row(self, load: Load, law: str) -> Row:
        bench = Bench(self.study, load.name, law)
        default = bench.known(bench.entry.defaults)
        if law in OUR_FORMS:
            return Row(law, default, default, 0)
        tried = self.tried(load.name, law)
        scores = [score for setting in candidates(tried) if (score := bench.known(setting)) is not None]
        tuned = min(scores, key=lambda score: cost(score.mean, SHARE), default=None)
        return Row(law, default, tuned, len(tried))

    def tried(self, load: str, law: str) -> list[Judged]:
        """What was tried on the seed of tuning, as far as the search got."""
        return Bench(self.study, load, law).tried_so_far()

    def row(self, load: Load, law: str) -> Row:
        """One law on one load."""
        return self._rows[load.name, law]

    def best(self, load: Load, *, tuned: bool) -> Row | None:
        """The rival that reaches the share for the fewest GPU hours, else the one that comes nearest."""
        rows = [self.row(load, law) for law in self.laws if law in RIVALS]
        found = [row for row in rows if (row.tuned if tuned else row.default) is not None]
        return min(found, key=lambda row: cost(_mean(row.tuned if tuned else row.default), SHARE), default=None)


def _mean(scored: Scored | None) -> Outcome:
    assert scored is not None
    return scored.mean


def tables_of(study: Study, loads: Sequence[str], laws: Sequence[str]) -> str:
    """All tables as Markdown."""
    book = Book(study, loads, laws)
    parts = [made(book), bounds(book), summary(book), first_bursts(book), goals(book), elsewhere(book)]
    parts += [load_table(book, load) for load in book.loads]
    return "\n\n".join(part for part in parts if part) + "\n"


def made(book: Book) -> str:
    """What was compared, and what was left out."""
    study, names = book.study, {load.name for load in book.loads}
    text = (
        f"Each rival was tried at {study.budget} settings on each load; the best ones on seed {TUNED_ON} were scored on"
        f" seed{'s' if len(study.seeds) > 1 else ''} {', '.join(map(str, study.seeds))}; {len(book.loads)} of {len(LOADS)} loads,"
        f" {len([law for law in book.laws if law in RIVALS])} of {len(RIVALS)} rivals."
    )
    left = [name for name in LOADS if name not in names]
    rivals = [LAWS[law].title for law in RIVALS if law not in book.laws]
    text += f" Not run: {'; '.join([*left, *rivals])}." if left or rivals else ""
    return f"### What was run\n\n{text}"


def bounds(book: Book) -> str:
    """The clairvoyant's hours, and a strict bound below which nothing can serve the load."""
    rows = []
    for load in book.loads:
        workload = load.workload(book.study.seeds[0], book.study.traces)
        bound = work_bound_gpu_hours(workload.trace, workload.pair, workload.objective)
        seer = book.row(load, SEER).tuned if SEER in book.laws else None
        rows.append([load.name, load.kind, f"{len(workload.trace):,}", f"{bound:.2f}", *_cells(seer)])
    head = ["load", "kind", "requests", "strict bound, GPU h", "clairvoyant: within objective", "GPU h"]
    return f"### Bounds\n\n{tables.markdown(head, rows)}"


def summary(book: Book) -> str:
    """Ours by default against the best rival by default and tuned, load by load."""
    text = _summary(book, [load for load in book.loads if load.kind != FIRST_BURST])
    return f"### Summary\n\n{text}"


def first_bursts(book: Book) -> str:
    """The same for loads that nobody can foresee."""
    loads = [load for load in book.loads if load.kind == FIRST_BURST]
    return f"### First bursts\n\n{_summary(book, loads)}" if loads else ""


def _summary(book: Book, loads: Sequence[Load]) -> str:
    rows = []
    for load in loads:
        ours = book.row(load, OURS).default if OURS in book.laws else None
        tuned, default = book.best(load, tuned=True), book.best(load, tuned=False)
        rows.append(
            [
                load.name,
                *_cells(ours),
                LAWS[tuned.law].title if tuned else MISSING,
                *_cells(tuned.tuned if tuned else None),
                _against(ours, tuned.tuned if tuned else None),
                LAWS[default.law].title if default else MISSING,
                *_cells(default.default if default else None),
                _against(ours, default.default if default else None),
            ]
        )
    head = [
        "load", "ours: within", "GPU h", "best tuned rival", "within", "GPU h", "ours against it", "best rival by default", "within",
        "GPU h", "ours against it",
    ]  # fmt: skip
    return tables.markdown(head, rows)


def _cells(scored: Scored | None) -> tuple[str, str]:
    """Share within the objective and GPU hours, each with its spread over seeds."""
    if scored is None:
        return MISSING, MISSING
    shares = [100 * outcome.attainment for outcome in scored.outcomes]
    hours = [outcome.gpu_hours for outcome in scored.outcomes]
    return f"{_centre(shares):.2f} % ({_spread(shares)})", f"{_centre(hours):.2f} ({_spread(hours)})"


def _centre(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.1f}-{max(values):.1f}"


def _against(ours: Scored | None, theirs: Scored | None) -> str:
    if ours is None or theirs is None:
        return MISSING
    difference = f"{100 * (ours.mean.gpu_hours / theirs.mean.gpu_hours - 1):+.1f} %"
    short = theirs.mean.attainment < SHARE
    return f"{difference} (it misses the share)" if short else difference


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing to reach, and on which loads it holds."""

    words: str
    held: tuple[str, ...]
    missed: tuple[str, ...]
    unknown: tuple[str, ...] = ()


def goals(book: Book) -> str:
    """Which goals hold, with the loads on which they do not."""
    rows = []
    for goal in goals_of(book):
        judged = len(goal.held) + len(goal.missed)
        verdict = "not run yet" if not judged else "does not hold" if goal.missed else "holds"
        rows.append([goal.words, verdict, f"{len(goal.held)} of {judged}", ", ".join(goal.missed)])
    return f"### What holds\n\n{tables.markdown(['goal', 'verdict', 'on loads', 'not on'], rows)}"


def goals_of(book: Book) -> list[Goal]:
    """The goals, judged on means over the seeds of scoring. Fewer GPU hours count only where as much is served as the goal asks: a fleet
    that serves less is cheaper.
    """
    share = f"{100 * SHARE:g} %"
    return [
        _judged(
            book,
            f"reaches {share} where the best tuned rival does; else within 1 point of the best",
            _reaches,
        ),
        _judged(
            book,
            "at most 5 % above the best rival tuned with hindsight",
            lambda v: _reaches(v) and v.hours <= 1.05 * v.rival_hours,
        ),
        _judged(
            book,
            "smooth: half of the gap between the best tuned rival and the clairvoyant closed",
            lambda v: _reaches(v) and v.hours <= (v.rival_hours + v.seer_hours) / 2,
            kinds=("smooth",),
        ),
        _judged(
            book,
            "at least 20 % below the best rival at its defaults",
            lambda v: v.share >= min(SHARE, v.default_share - 0.01) and v.hours <= 0.8 * v.default_hours,
        ),
        _mean_of_others(book),
        _quick(book),
    ]


@dataclass(frozen=True, slots=True)
class _View:
    hours: float
    share: float
    rival_hours: float
    rival_share: float
    default_hours: float
    default_share: float
    seer_hours: float


def _view(book: Book, load: Load) -> _View | None:
    ours = book.row(load, OURS).default if OURS in book.laws else None
    tuned, default = book.best(load, tuned=True), book.best(load, tuned=False)
    seer = book.row(load, SEER).tuned if SEER in book.laws else None
    if ours is None or tuned is None or default is None or seer is None:
        return None
    rival = _mean(tuned.tuned)
    return _View(
        ours.mean.gpu_hours,
        ours.mean.attainment,
        rival.gpu_hours,
        rival.attainment,
        _mean(default.default).gpu_hours,
        _mean(default.default).attainment,
        seer.mean.gpu_hours,
    )


def _reaches(view: _View) -> bool:
    return view.share >= SHARE if view.rival_share >= SHARE else view.share >= view.rival_share - 0.01


def _judged(book: Book, words: str, holds: Callable[[_View], bool], *, kinds: Sequence[str] = ()) -> Goal:
    held: list[str] = []
    missed: list[str] = []
    unknown: list[str] = []
    for load in book.loads:
        if (kinds and load.kind not in kinds) or load.kind == FIRST_BURST:
            continue
        view = _view(book, load)
        where = unknown if view is None else held if holds(view) else missed
        where.append(load.name)
    return Goal(words, tuple(held), tuple(missed), tuple(unknown))


def _mean_of_others(book: Book) -> Goal:
    views = [
        (load.name, view)
        for load in book.loads
        if load.kind not in ("smooth", FIRST_BURST) and (view := _view(book, load)) is not None
    ]
    words = "the others: at least 10 % below the best tuned rival in the mean"
    reached = [(name, view) for name, view in views if _reaches(view)]
    missed = tuple(name for name, view in views if not _reaches(view))
    if not reached:
        return Goal(words, (), missed)
    mean = math.exp(sum(math.log(view.hours / view.rival_hours) for _, view in reached) / len(reached)) - 1
    words, names = f"{words} ({100 * mean:+.1f} % where it reaches as much)", tuple(name for name, _ in reached)
    return Goal(words, names, missed) if mean <= -0.10 else Goal(words, (), (*names, *missed))


def _quick(book: Book) -> Goal:
    words = f"a week of virtual time at {speed.RATE:g} requests/s in under {speed.ALLOWED_SECONDS / 60:g} minutes of one core"
    seconds = speed.week_seconds(book.study.out)
    if seconds is None:
        return Goal(words, (), ())
    words, names = f"{words} ({seconds / 60:.1f} minutes)", ("a week",)
    return Goal(words, names, ()) if seconds < speed.ALLOWED_SECONDS else Goal(words, (), names)


def elsewhere(book: Book) -> str:
    """Each rival with the one setting that does best on all other loads (seed of tuning)."""
    rows = []
    for load in book.loads:
        ours = Bench(book.study, load.name, OURS).on_tuning({}) if OURS in book.laws else None
        cells = [load.name, f"{100 * ours.attainment:.2f} %, {ours.gpu_hours:.2f}" if ours else MISSING]
        rows.append([*cells, *(_carried(book, load, law) for law in book.laws if law in RIVALS)])
    head = ["load", "Headroom by default", *(LAWS[law].title for law in book.laws if law in RIVALS)]
    text = "Within the objective and GPU hours of each rival with the setting that is best over all loads but the one in its row."
    return f"### Tuned on the other loads\n\n{text}\n\n{tables.markdown(head, rows)}"


def _carried(book: Book, load: Load, law: str) -> str:
    """Of the settings that every load has seen."""
    shared = list(spread(LAWS[law], max(book.study.budget // 2, 1)))
    known = {one.name: book.tried(one.name, law)[: len(shared)] for one in book.loads}
    if any(len(tried) < len(shared) for tried in known.values()) or len(known) < 2:
        return MISSING
    others = [tried for name, tried in known.items() if name != load.name]

    def regret(at: int) -> float:
        total = 0.0
        for tried in others:
            best = min(cost(outcome, SHARE) for _, outcome in tried)[1]
            total += math.log(tried[at][1].gpu_hours / best) + 20 * max(SHARE - tried[at][1].attainment, 0.0)
        return total

    outcome = known[load.name][min(range(len(shared)), key=regret)][1]
    return f"{100 * outcome.attainment:.2f} %, {outcome.gpu_hours:.2f}"


def load_table(book: Book, load: Load) -> str:
    """All laws on one load, by default and tuned."""
    rows = []
    for law in book.laws:
        row, entry = book.row(load, law), LAWS[law]
        rows.append([entry.title, "default", *_cells(row.default), *_more(row.default)])
        if row.tuned is not None and row.tuned is not row.default:
            setting = tables.setting_text(entry, row.tuned.parameters)
            rows.append(["", f"best of {row.tried}: {setting}", *_cells(row.tuned), *_more(row.tuned)])
    head = ["law", "setting", "within", "GPU h", "TTFT p99 s", "moves", "cold starts", "unfinished"]
    return f"### {load.name}\n\n{tables.markdown(head, rows)}"


def _more(scored: Scored | None) -> list[str]:
    if scored is None:
        return [MISSING] * 4
    mean = replace(scored.mean)
    return [f"{mean.ttft_p99_seconds:.2f}", f"{mean.moves:.0f}", f"{mean.cold_starts:.0f}", f"{mean.unfinished:.0f}"]

"""The loads of the published comparison, each with its world and objective.

The kinds: `smooth` loads change slower than replicas start, `bursty` ones faster and again and again, `lengths` are chat's
opposites, `shifts` change their mix, `first burst` meets a law with something new, `days` last for days, `worlds` differ in what
surrounds the load. A load's seed draws its arrivals (patterns), cold starts and the moments of its scrapes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from simulations.serving.arena import Conditions, Workload
from simulations.serving.engine.hardware import Pair, StartPhase, bundled_pairs, find_pair
from simulations.serving.fleet.placing import uniform_fleet
from simulations.serving.laws.base import Objective
from simulations.serving.loads.patterns import generate
from simulations.serving.loads.traces import Trace, read_trace

SHARE: Final = 0.98
"""Of requests that are to meet their objective."""
OBJECTIVE: Final = Objective(ttft_seconds=2.0, itl_seconds=0.1)
SHIFT_SECONDS: Final = 17.0
TUNED_ON: Final = 1
"""Seed that settings are picked on."""
SCORED_ON: Final = (2, 3, 4, 5, 6)
"""Seeds that they are scored on."""

Source = Callable[[int, Path], Trace]
"""(seed, folder of the traces) -> requests."""


@dataclass(frozen=True, slots=True)
class Load:
    """One load in its world."""

    name: str
    kind: str
    source: Source
    model: str = "llama-3.1-8b"
    card: str = "L40S"
    objective: Objective = OBJECTIVE
    most: int = 32
    nodes: int = 8
    world: Mapping[str, Any] = field(default_factory=dict)
    """Conditions that differ from the usual ones."""
    start_seconds: float = 0.0
    """Median start-up time in place of the pair's; 0: the pair's."""
    tuned_hours: float = 0.0
    """Settings are picked on the first so many hours; 0: on the whole."""

    def pair(self) -> Pair:
        """Model and card."""
        pair = find_pair(bundled_pairs(), self.model, self.card)
        if self.start_seconds:
            pair = replace(pair, cold_start=(StartPhase("engine", self.start_seconds, 0.3),))
        return pair

    def workload(self, seed: int, traces: Path, *, tuning: bool = False) -> Workload:
        """The requests, as far as settings are picked on them when `tuning`."""
        trace = self.source(seed, traces)
        if tuning and self.tuned_hours:
            trace = trace.part(0.0, self.tuned_hours * 3600)
        return Workload(trace, self.pair(), self.objective, max_replicas=self.most)

    def conditions(self) -> Conditions:
        """The world around it."""
        pair = self.pair()
        return Conditions(uniform_fleet(pair.card, pair.card_vram_mib, self.nodes, 8), **self.world)


def azure(name: str, copies: int, minutes: tuple[float, float] | None = None) -> Source:
    """A public Azure trace, laid over itself, or a part of it."""

    def source(_: int, traces: Path) -> Trace:
        trace = read_trace(traces / "llm" / f"azure_2023_{name}.csv.gz")
        if minutes is not None:
            trace = trace.part(60 * minutes[0], 60 * (minutes[1] - minutes[0]))
        return trace.copies(copies, SHIFT_SECONDS)

    return source


def pattern(name: str, rate: float = 14.0, hours: float = 1.5, lengths: str = "chat") -> Source:
    """A generated load."""
    return lambda seed, _: generate(name, rate=rate, hours=hours, seed=seed, lengths=lengths)


def _mooncake(_: int, traces: Path) -> Trace:
    return read_trace(traces / "llm" / "mooncake_synthetic.jsonl.gz")


LONG: Final = Objective(ttft_seconds=8.0, itl_seconds=0.1)
"""For prompts of tens of thousands of tokens."""

LOADS: Final[Mapping[str, Load]] = {
    load.name: load
    for load in (
        Load("conv x4", "smooth", azure("conv", 4)),
        Load("conv x2", "smooth", azure("conv", 2)),
        Load("conv x4, Qwen3-32B on H100", "smooth", azure("conv", 4), "qwen3-32b", "H100-80GB"),
        Load("diurnal", "smooth", pattern("diurnal")),
        Load("ramp", "smooth", pattern("ramp")),
        Load("growth", "smooth", pattern("growth")),
        Load("code x4", "bursty", azure("code", 4)),
        Load("code x2", "bursty", azure("code", 2)),
        Load("spikes", "bursty", pattern("spikes")),
        Load("on and off", "bursty", pattern("onoff")),
        Load("steps", "bursty", pattern("steps")),
        Load("8k outputs", "lengths", pattern("diurnal", 0.6, 2.0, "reasoning"), most=64),
        Load("28k prompts", "lengths", pattern("diurnal", 0.55, 1.5, "documents"), objective=LONG),
        Load("chat with some 24k prompts", "lengths", pattern("diurnal", 7.0, 1.5, "mixed")),
        Load("shared prefixes (Mooncake)", "lengths", _mooncake, "llama-3.1-8b", "H100-80GB", LONG, world={"router": "prefix-aware"}),
        Load("shift of the mix", "shifts", pattern("steady", 8.0, 1.5, "shifting")),
        Load("flip of the mix", "shifts", pattern("steady", 10.0, 1.5, "flipping")),
        Load("one burst", "first burst", pattern("surprise")),
        Load("a week of agents", "days", pattern("week", 1.0, 168.0, "agents"), tuned_hours=48.0),
        Load("conv x4, first token in 1 s", "worlds", azure("conv", 4), objective=Objective(1.0, 0.1)),
        Load("conv x4, first token in 5 s", "worlds", azure("conv", 4), objective=Objective(5.0, 0.1)),
        Load("conv x4 behind a Service", "worlds", azure("conv", 4), world={"router": "random"}),
        Load("ramp, 10 min starts", "worlds", pattern("ramp"), start_seconds=600.0),
        Load("diurnal, every second card 3 x slower", "worlds", pattern("diurnal"), world={"slow_every": 2, "slow_factor": 3.0}, most=48),
        Load("diurnal, 30 % of the pods silent", "worlds", pattern("diurnal"), world={"silent_share": 0.3}),
        Load("200 replicas", "worlds", pattern("diurnal", 420.0, 0.5), most=400, nodes=60),
    )
}  # fmt: skip
"""By name, in the order of the tables."""

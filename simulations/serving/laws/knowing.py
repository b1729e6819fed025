"""Laws that are told the future, as yardsticks: a fixed count for the peak, Headroom's law one cold start ahead, a clairvoyant.

The clairvoyant knows all arrivals with their lengths and the true speed of a replica. At each moment it keeps what the load
will need at any time until a pod created now would surely be ready: so pods are ready just when they are needed, and a pod
between two needs is kept exactly when the gap is shorter than the cold start that it saves. What the load needs at time u is
the most that any stretch beginning there asks for, work(u, u + s) / (s + TTFT objective), over the busy share `rho`.
It is no strict bound: it routes like all others, draws cold starts like all others, and rounds up to whole replicas.
`results.work_bound_gpu_hours` is one.
"""

import bisect
import math
from dataclasses import replace
from itertools import accumulate
from typing import Final

from autoscaler.law.inputs import Work
from autoscaler.observation.observer import Observer
from simulations.serving.engine.hardware import Pair
from simulations.serving.fleet.observe import View
from simulations.serving.laws.base import Law, Objective, Parameters, Setting
from simulations.serving.laws.headroom import HeadroomLaw
from simulations.serving.loads.traces import Trace

_BIN_SECONDS: Final = 5.0
_STRETCHES: Final = (1, 2, 4, 8, 12)
"""In bins."""


def capacity_seconds(pair: Pair, objective: Objective, prompt_tokens: int, output_tokens: int) -> float:
    """Seconds of what one replica can do within the objective that a request takes: see `autoscaler.law.sizing.prices` for the formula.

    The larger of two bounds: iterations within the inter-token objective, and prompt chunks of the size the engine takes.
    """
    speed = pair.speed
    step = speed.per_sequence_seconds + speed.per_kv_token_seconds * (prompt_tokens + output_tokens / 2)
    prompt = speed.prompt_seconds(prompt_tokens)
    decode = (output_tokens - 1) * step
    share = max(1 - speed.base_seconds / objective.itl_seconds, 0.05)
    return max((prompt + decode) / share, prompt + prompt_tokens / speed.chunk_tokens * speed.base_seconds + decode)


def needs(trace: Trace, pair: Pair, objective: Objective) -> list[float]:
    """Replicas, as a real number, that the load needs from the beginning of each bin."""
    bins = [0.0] * (int(trace.span_seconds / _BIN_SECONDS) + 2)
    for arrival, prompt, output in zip(trace.arrival_seconds, trace.prompt_tokens, trace.output_tokens, strict=True):
        bins[int(arrival / _BIN_SECONDS)] += capacity_seconds(pair, objective, prompt, output)
    sums = [0.0, *accumulate(bins)]
    last = len(bins)
    return [
        max(
            (sums[min(at + stretch, last)] - sums[at]) / (stretch * _BIN_SECONDS + objective.ttft_seconds)
            for stretch in _STRETCHES
        )
        for at in range(last)
    ]


class Clairvoyant:
    """Knows everything; see the module."""

    def __init__(self, setting: Setting, rho: float, ahead_seconds: float) -> None:
        self.needs = needs(setting.trace, setting.pair, setting.objective)
        self.rho = rho
        self.ahead_seconds = ahead_seconds

    def wish(self, view: View) -> int:
        first = int(view.now / _BIN_SECONDS)
        last = int((view.now + self.ahead_seconds) / _BIN_SECONDS) + 1
        return max(math.ceil(max(self.needs[first:last], default=0.0) / self.rho - 1e-9), 1)


class Foresight(HeadroomLaw):
    """Headroom's law, told the arrivals (and their lengths) of the next cold start."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters)
        self.law = replace(self.law, burst_margin=math.inf)  # nothing is sudden to who is told: no reserve
        self.ahead_seconds = parameters["ahead"]

    def work(self, observer: Observer, view: View) -> Work | None:
        work = super().work(observer, view)
        if work is None:
            return None
        trace = self.setting.trace
        times = trace.arrival_seconds
        first = bisect.bisect_left(times, view.now)
        last = bisect.bisect_left(times, view.now + self.ahead_seconds)
        count = last - first
        return replace(
            work,
            prompt_tokens_per_second=(0.0, 0.0),
            output_tokens_per_second=(0.0, 0.0),
            requests_per_second=(
                self._peak(view.now, self.law.short_mean_seconds),
                self._peak(view.now, self.law.long_mean_seconds),
            ),
            prompt_tokens_per_request=sum(trace.prompt_tokens[first:last]) / count
            if count
            else work.prompt_tokens_per_request,
            output_tokens_per_request=sum(trace.output_tokens[first:last]) / count
            if count
            else work.output_tokens_per_request,
        )

    def _peak(self, now: float, seconds: float) -> float:
        """Highest mean rate of arrivals over any window of this length that ends within the time ahead."""
        times = self.setting.trace.arrival_seconds
        ends = [now + seconds + 15.0 * step for step in range(int(max(self.ahead_seconds - seconds, 0.0) / 15.0) + 1)]
        return max(
            (bisect.bisect_left(times, end) - bisect.bisect_left(times, end - seconds)) / seconds for end in ends
        )


class Static:
    """A fixed number of replicas."""

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas

    def wish(self, view: View) -> int:
        return self.replicas


def make_static(setting: Setting, parameters: Parameters) -> Law:
    """A fixed count; 0 stands for what the busiest minute needs at 80 % busy."""
    count = int(parameters["replicas"])
    if not count:
        minute = needs(setting.trace, setting.pair, setting.objective)
        width = int(60 / _BIN_SECONDS)
        means = [sum(minute[at : at + width]) / width for at in range(max(len(minute) - width, 1))]
        count = math.ceil(max(means) / 0.8)
    return Static(count)


def make_foresight(setting: Setting, parameters: Parameters) -> Law:
    """Headroom's law one cold start ahead."""
    return Foresight(setting, parameters)


def make_clairvoyant(setting: Setting, parameters: Parameters) -> Law:
    """The clairvoyant."""
    return Clairvoyant(setting, parameters["rho"], parameters["ahead"])

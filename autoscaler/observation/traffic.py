"""What arrives at a target, how long its requests are, and how many of them are late: over the pods that serve and those that leave. Pure.

Pods that end what they have were sent requests a moment ago: without them what arrives would seem to fall with every cut.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from autoscaler.law.spec import Objective
from autoscaler.observation.gathering import Gatherer
from autoscaler.observation.series import merge_buckets, share_above
from headroom.domain.engines import Metric

MEMORY_SECONDS: Final = (60.0, 900.0)
"""Shortest and longest memory of the length of a mean request."""
REQUESTS_REMEMBERED: Final = 1000.0
"""Within those bounds as long as it takes for so many to end."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Requests that ended, older ones counting less, and the tokens that went with them."""

    requests: float = 0.0
    prompt_tokens: float = 0.0
    """Computed ones: those found in a prefix cache are left out."""
    output_tokens: float = 0.0
    prompt_grain: float = 0.0
    """E[p^2] / E[p] of the prompts, in tokens; 0: not known."""

    @property
    def prompt(self) -> float:
        """Prompt tokens of a mean request, 0 while none has ended."""
        return self.prompt_tokens / self.requests if self.requests > 0 else 0.0

    @property
    def output(self) -> float:
        """Output tokens of a mean request, 0 while none has ended."""
        return self.output_tokens / self.requests if self.requests > 0 else 0.0


class Traffic:
    """Sums over the pods of one target: `serving` are those that are ready, `leaving` those that end what they have, if any."""

    def __init__(self, serving: Gatherer, leaving: Gatherer | None) -> None:
        self._engine, self._serving = serving.engine, serving
        self._parts = (serving,) if leaving is None else (serving, leaving)
        self._rates: dict[tuple[str, ...], tuple[float, float]] = {}

    def rates(self, metric: Metric, less: Metric | None = None) -> tuple[float, float]:
        """A counter per second, over the short and the long averaging time; without what `less` counts of it."""
        known = self._rates.get(metric.names)
        if known is None:
            parts = [facts.rates(metric) for facts in self._parts]
            known = sum([part.gathered.total for part in parts]), sum([part.long for part in parts])
            self._rates[metric.names] = known
        if not less:
            return known
        without = self.rates(less)
        return max(known[0] - without[0], 0.0), max(known[1] - without[1], 0.0)

    def growth(self, metric: Metric) -> tuple[float, float]:
        """How fast a gauge that counts requests rises, over the two averaging times."""
        parts = [facts.growth(metric) for facts in self._parts]
        return sum([short for short, _ in parts]), sum([long for _, long in parts])

    def lengths(self, known: Lengths, seconds: float) -> Lengths:
        """The lengths after `seconds` more."""
        engine = self._engine
        requests = self.rates(engine.finished)[0]
        prompt, output = self._ended_tokens(requests)
        memory = REQUESTS_REMEMBERED / requests if requests > 0 else MEMORY_SECONDS[1]
        keep = math.exp(-seconds / min(max(memory, MEMORY_SECONDS[0]), MEMORY_SECONDS[1]))
        return Lengths(
            known.requests * keep + requests * seconds,
            known.prompt_tokens * keep + prompt * seconds,
            known.output_tokens * keep + output * seconds,
            self._grain(known.prompt_grain, keep),
        )

    def _ended_tokens(self, requests: float) -> tuple[float, float]:
        """Prompt and output tokens per second: of the requests that ended, or those done where the engine does not say."""
        engine = self._engine
        done = self.rates(engine.prompt_tokens, less=engine.cached_tokens)[0]
        ended = self.rates(engine.ended_output_tokens)[0] if engine.ended_output_tokens else 0.0
        if ended <= 0:
            return done, self.rates(engine.output_tokens)[0]
        whole = self.rates(engine.prompt_tokens)[0]
        computed = done / whole if whole > 0 else 1.0
        return self.rates(engine.ended_prompt_tokens)[0] * computed, ended

    def _grain(self, known: float, keep: float) -> float:
        merged = self._buckets(self._engine.prompt_length)
        first = second = below = start = 0.0
        for edge, rate in sorted(merged.items()):
            middle = start if math.isinf(edge) else math.sqrt(start * edge) if start else edge / 2
            first, second = first + (rate - below) * middle, second + (rate - below) * middle**2
            below, start = rate, edge
        if first <= 0:
            return known
        return second / first if not known else keep * known + (1 - keep) * second / first

    def lateness(self, objective: Objective) -> tuple[float, float]:
        """(requests per second whose latency is known, share of them past the objective)."""
        engine = self._engine
        limits = (
            (engine.time_to_first_token, objective.first_token_seconds),
            (engine.per_output_token or engine.inter_token, objective.inter_token_seconds),
            (engine.request, objective.request_seconds),
        )
        answers, met = 0.0, 1.0
        for metric, limit in limits:
            if limit is None or not metric:
                continue
            merged = self._buckets(metric)
            if metric is not engine.inter_token or not engine.time_to_first_token:
                answers = max(answers, max(merged.values(), default=0.0))
            met *= 1 - share_above(merged, limit / metric.scale)
        return answers, 1 - met

    def _buckets(self, metric: Metric) -> dict[float, float]:
        """Cumulative rates by upper edge, over the serving pods."""
        if not metric:
            return {}
        found: list[Mapping[float, float]] = []
        known = self._serving.snapshot.buckets.values()
        per_name = [by_name[name] for name in metric.names for by_name in known if name in by_name]
        for pod in self._serving.ready:
            buckets = self._serving.look_up(per_name, pod)
            if buckets is not None:
                found.append(buckets)
        return merge_buckets(found)

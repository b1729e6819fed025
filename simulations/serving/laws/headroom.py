"""Headroom's own law: the very `autoscaler.law.decide.decide` that the daemon runs, fed from the arena's samples.

The adapter does what the daemon's collector does on Prometheus: token rates over a short and a long window, costs of a token
learned from the engine's counters, pods by state, the scheduler's fit answer. Nothing of the pair's true speed is passed in.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Final

from autoscaler.api.engines import default_signals, fallback
from autoscaler.law.constants import LawConstants
from autoscaler.law.decide import TargetState, decide
from autoscaler.law.inputs import Capacity, Freshness, Observation, PodFacts, Reading, SignalKind, Work
from autoscaler.law.sizing import prices
from autoscaler.law.spec import TargetSpec
from headroom.domain.engines import VLLM
from simulations.serving.fleet.deployment import Phase
from simulations.serving.fleet.observe import Sample, View
from simulations.serving.laws.base import Law, Parameters, Setting

WARM_SECONDS: Final = 30.0
"""A pod younger than this teaches nothing of costs."""
MIX_SECONDS: Final = 300.0
"""Over which the lengths of a mean request are taken."""
_LAW_NAMES: Final = frozenset(field.name for field in fields(LawConstants))
_COST_NAMES: Final = frozenset(field.name for field in fields(prices.CostSettings))


class HeadroomLaw:
    """`decide` with its state."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        self.setting = setting
        changed: dict[str, Any] = {name: value for name, value in parameters.items() if name in _LAW_NAMES}
        self.law = replace(LawConstants(), **changed)
        self.cost_settings = replace(
            prices.CostSettings(), **{name: value for name, value in parameters.items() if name in _COST_NAMES}
        )
        signals = tuple(
            replace(signal, target=parameters["target"])
            if signal.kind is SignalKind.WORK and "target" in parameters
            else signal
            for signal in default_signals(VLLM)
        )
        self.spec = TargetSpec(
            min_replicas=setting.min_replicas,
            max_replicas=setting.max_replicas,
            signals=signals,
            fallback=fallback(VLLM),
            burst_factor=parameters.get("burst_factor", 0.0),
            down=replace(TargetSpec().down, window_seconds=parameters.get("down_window")),
        )
        self.state = TargetState()
        self.cost_state = prices.CostState()
        self._learned_until = -1.0
        self._pods_seen: set[int] = set()

    def wish(self, view: View) -> int:
        """One decision."""
        self._learn(view)
        decision = decide(self.spec, self.state, self._observation(view), view.now, self.law)
        self.state = decision.state
        return decision.replicas

    def _learn(self, view: View) -> None:
        newest = view.latest
        if newest is None or newest.time <= self._learned_until:
            return
        self._learned_until = newest.time
        for sample in iterations(newest, self.setting.pair.speed.kv_tokens, self.setting.scrape_seconds):
            self.cost_state = prices.learn(self.cost_state, sample, self.cost_settings)

    def work(self, view: View) -> Work:
        """Token rates and costs, as the collector reports them."""
        newest = view.latest
        if newest is None:
            return Work(Freshness.EMPTY, detail="nothing scraped yet")
        cost = prices.cost(self.cost_state, self.cost_settings, self.setting.objective.itl_seconds)
        windows = (self.law.short_mean_seconds, self.law.long_mean_seconds)
        prompt = tuple(view.rate(lambda sample: sample.prompt_tokens, seconds) for seconds in windows)
        output = tuple(view.rate(lambda sample: sample.output_tokens, seconds) for seconds in windows)
        waiting = newest.held + sum(pod.waiting for pod in newest.pods)
        mean_prompt, mean_output = _mean_tokens(view, MIX_SECONDS)
        return Work(
            state=Freshness.FRESH,
            prompt_tokens_per_second=(prompt[0], prompt[1]),
            output_tokens_per_second=(output[0], output[1]),
            waiting_prompt_tokens=waiting * mean_prompt,
            waiting=waiting,
            running=newest.inside - waiting,
            seconds_per_prompt_token=cost.per_prompt_token if cost else 0.0,
            seconds_per_output_token=cost.per_output_token if cost else 0.0,
            requests_per_second=(view.rate(_arrivals, windows[0]), view.rate(_arrivals, windows[1]))
            if mean_prompt
            else None,
            prompt_tokens_per_request=mean_prompt,
            output_tokens_per_request=mean_output,
            full_batch=cost.full_batch if cost else 0.0,
            age_seconds=view.now - newest.time,
        )

    def _observation(self, view: View) -> Observation:
        newest = view.latest
        work = self.work(view)
        running = Reading("running", work.state, work.running + work.waiting, work.age_seconds)
        kv = view.pod_mean(lambda pod: pod.kv_share)
        busy = view.pod_mean(lambda pod: pod.busy_share)
        return Observation(
            replicas=view.replicas,
            pods=PodFacts(
                ready=view.ready,
                starting=view.ages(Phase.STARTING),
                unschedulable=view.ages(Phase.PENDING),
                terminating=view.ages(Phase.DRAINING),
                started_seconds=self._started(view),
            ),
            readings=(
                running,
                Reading("kvCache", Freshness.EMPTY)
                if kv is None
                else Reading("kvCache", Freshness.FRESH, kv, work.age_seconds),
            ),
            work=work,
            utilisation=None
            if busy is None or newest is None
            else Reading("utilisation", Freshness.FRESH, busy, view.now - newest.time),
            capacity=Capacity(self.setting.room(self.setting.max_replicas)),
            gpus_per_replica=float(self.setting.pair.cards),
        )

    def _started(self, view: View) -> tuple[float, ...]:
        fresh = [
            pod
            for pod in view.deployment.pods
            if pod.phase is Phase.READY and pod.order not in self._pods_seen and pod.ready_at > pod.created
        ]
        self._pods_seen.update(pod.order for pod in fresh)
        return tuple(pod.ready_at - pod.created for pod in fresh)


def iterations(sample: Sample, kv_tokens: int, scrape_seconds: float) -> list[prices.Iterations]:
    """What one scrape teaches of the length of an iteration, one entry per warm pod that decoded."""
    found = []
    for pod in sample.pods:
        step = pod.step
        if step is None or pod.age_seconds < WARM_SECONDS or step.iterations < 1 or step.output_tokens < 1:
            continue
        batch = step.output_tokens / step.iterations
        room = batch / pod.kv_share if pod.kv_share > 0.02 else float("inf")
        found.append(
            prices.counted(
                seconds=scrape_seconds,
                iterations=step.iterations,
                mean_gap_seconds=step.gap_seconds / step.output_tokens,
                output_tokens=step.output_tokens,
                prompt_tokens=step.prompt_tokens,
                batch_room=room,
            )
        )
    return found


def _arrivals(sample: Sample) -> float:
    """A counter of arrivals from what engines export: requests finished and requests inside."""
    return sample.finished_count + sample.inside


def _mean_tokens(view: View, seconds: float) -> tuple[float, float]:
    """Prompt and output tokens of a mean request: tokens done over requests finished."""
    samples: Sequence[Sample] = view.window(seconds)
    first, last = samples[0], samples[-1]
    finished = last.finished_count - first.finished_count
    if not finished:
        finished = last.finished_count
        return (last.prompt_tokens / finished, last.output_tokens / finished) if finished else (0.0, 0.0)
    return (last.prompt_tokens - first.prompt_tokens) / finished, (last.output_tokens - first.output_tokens) / finished


def make(setting: Setting, parameters: Parameters) -> Law:
    """Headroom's law."""
    return HeadroomLaw(setting, parameters)

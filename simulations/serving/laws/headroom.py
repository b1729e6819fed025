"""Headroom's own law: the very `autoscaler.law.decide.decide` that the daemon runs, on what the daemon's observer makes of the scrapes.

From the object that a user writes (`autoscaler.api.resource`) to the decision everything is the daemon's code; only the answers
of Prometheus are made here, by `fleet.scrapes`. Nothing of the pair's true speed is passed in.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Final

from autoscaler.api.resource import InferenceAutoscaler, ResourceMeta, SpecWire, Target, TargetRef, ToZeroWire, read
from autoscaler.law.constants import LawConstants
from autoscaler.law.decide import TargetState, decide
from autoscaler.law.inputs import Capacity, Freshness, Observation, Reading, SignalKind, Work
from autoscaler.law.sizing import prices
from autoscaler.law.spec import Objective
from autoscaler.observation.answers import Snapshot
from autoscaler.observation.cluster import pods
from autoscaler.observation.cluster.objects import PodView
from autoscaler.observation.gathering import ObserveSettings
from autoscaler.observation.lessons import Lessons, engine_costs
from autoscaler.observation.observer import Observer
from autoscaler.settings import AutoscalerSettings
from simulations.serving.fleet.deployment import Deployment
from simulations.serving.fleet.observe import View
from simulations.serving.fleet.pods import Phase, Pod
from simulations.serving.fleet.scrapes import Scrapes, Windows
from simulations.serving.laws.base import Law, Parameters, Setting

EPOCH_SECONDS: Final = 1_000_000.0
"""Wall clock at the start of a run: a stamp of 0 means `never`."""
_NAMESPACE, _NAME = "simulated", "model"
_LAW_NAMES: Final = frozenset(field.name for field in fields(LawConstants))
_COST_NAMES: Final = frozenset(field.name for field in fields(prices.CostSettings))


class HeadroomLaw:
    """`decide` with its state, and the daemon's observer before it."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        self.setting = setting
        defaults = AutoscalerSettings()
        law = LawConstants(short_mean_seconds=defaults.short_mean_seconds, long_mean_seconds=defaults.long_mean_seconds)
        self.law = replace(law, **_named(parameters, _LAW_NAMES))
        self.costs = replace(prices.CostSettings(), **_named(parameters, _COST_NAMES))
        self.target = _target(setting, parameters)
        self.state = TargetState()
        self.lessons = Lessons()
        self._observing = ObserveSettings(stale_seconds=defaults.stale_seconds)
        lookback = max(defaults.stale_seconds, self.law.long_mean_seconds) + 15.0
        self._windows = Windows(
            self.law.short_mean_seconds, self.law.long_mean_seconds, max(lookback, self.law.long_mean_seconds + 30)
        )
        self._started: Mapping[str, float] = {}
        self._scrapes: Scrapes | None = None

    def watch(self, deployment: Deployment, seed: int, silent: Callable[[int], bool]) -> None:
        """Scrape this deployment from now on."""
        self._scrapes = Scrapes(deployment, interval_seconds=self.setting.scrape_seconds, seed=seed, silent=silent)

    def wish(self, view: View) -> int:
        """One decision."""
        observation = self.observe(view)
        decision = decide(self.target.spec, self.state, observation, view.now, self.law)
        self.state = decision.state
        return decision.replicas

    def observe(self, view: View) -> Observation:
        """What the daemon would observe now."""
        assert self._scrapes is not None, "nothing is watched"
        wall = view.now + EPOCH_SECONDS
        own = [pod_view(pod) for pod in view.deployment.pods]
        snapshot = self.snapshot(view, self._scrapes.snapshot(wall, self._windows, pod_key))
        observer = Observer(self.target, own, snapshot, wall, self._observing)
        self.lessons = observer.learn(self.lessons, self.costs)
        facts = pods.facts(own, wall, self._started)
        self._started = pods.started(own, self._started)
        return Observation(
            replicas=view.replicas,
            pods=facts,
            readings=observer.readings(),
            work=self.work(observer, view),
            utilisation=observer.utilisation(),
            gateway=observer.gateway(self.lessons, engine_costs(self.target, self.lessons, self.costs)),
            activation=Reading("router", Freshness.FRESH, float(view.deployment.inside)),
            capacity=Capacity(self.setting.room(self.setting.max_replicas)),
            gpus_per_replica=float(self.setting.pair.cards),
        )

    def snapshot(self, view: View, pods: Snapshot) -> Snapshot:
        """What Prometheus answers: what the pods say, and what else there is."""
        return pods

    def work(self, observer: Observer, view: View) -> Work | None:
        """Token rates and their prices."""
        return observer.work(self.lessons, engine_costs(self.target, self.lessons, self.costs))


def _named(parameters: Parameters, names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name in names}


def _target(setting: Setting, parameters: Parameters) -> Target:
    """The object as a user would write it, read as the daemon reads it: with an objective, or where a `target` is given by that."""
    spec = SpecWire(
        scale_target_ref=TargetRef(kind="Deployment", name=_NAME),
        min_replicas=setting.min_replicas,
        max_replicas=setting.max_replicas,
        burst_factor=str(parameters["burst_factor"]) if parameters.get("burst_factor") else None,
        scale_to_zero=None if setting.min_replicas else ToZeroWire(activation_query="router_requests"),
    )
    target = read(InferenceAutoscaler(ResourceMeta(name=_NAME, namespace=_NAMESPACE), spec))
    signals = tuple(
        replace(signal, target=parameters["target"])
        if signal.kind is SignalKind.WORK and "target" in parameters
        else signal
        for signal in target.spec.signals
    )
    down = replace(target.spec.down, window_seconds=parameters.get("down_window", target.spec.down.window_seconds))
    objective = None
    if "target" not in parameters:
        share = parameters.get("share", setting.objective.share)
        objective = Objective(setting.objective.ttft_seconds, setting.objective.itl_seconds, share=share)
    return replace(target, spec=replace(target.spec, signals=signals, down=down, objective=objective))


def pod_key(pod: Pod) -> tuple[str, str]:
    """Namespace and name."""
    return _NAMESPACE, f"{_NAME}-{pod.order}"


def pod_view(pod: Pod) -> PodView:
    """The pod as the API server shows it."""
    placed = pod.placement is not None
    return PodView(
        namespace=_NAMESPACE,
        name=pod_key(pod)[1],
        owner=f"Deployment/{_NAMESPACE}/{_NAME}",
        node=pod.placement.node if pod.placement is not None else "",
        ip="",
        phase="Running" if placed else "Pending",
        created_at=pod.created + EPOCH_SECONDS,
        scheduled_at=pod.placed_at + EPOCH_SECONDS if placed else 0.0,
        ready_at=pod.ready_at + EPOCH_SECONDS if pod.phase in (Phase.READY, Phase.DRAINING) else 0.0,
        deleted_at=pod.removed_at + EPOCH_SECONDS if pod.phase is Phase.DRAINING else 0.0,
        failing=False,
        cards=(),
        share=0.0,
        deletion_cost="",
    )


def make(setting: Setting, parameters: Parameters) -> Law:
    """Headroom's law."""
    return HeadroomLaw(setting, parameters)

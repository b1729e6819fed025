"""The `InferenceAutoscaler` object as the API server gives it, and its reading into a TargetSpec. Pure.

The API server has checked the schema; what it cannot know (a quantity that is no number here, an object written before
the schema grew) is checked again and named with field and value.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

import msgspec

from autoscaler.api.engines import default_signals, exports, fallback
from autoscaler.api.gateway import GatewayAsk, GatewayWire, read_gateway
from autoscaler.api.likely import mistakes
from autoscaler.api.objective import ObjectiveWire, read_objective, usual_objective, with_work
from autoscaler.api.query_guard import is_closed
from autoscaler.api.schedule import Window, WindowWire, likely_mistakes, read_schedule
from autoscaler.law.inputs import GATEWAY, SignalKind
from autoscaler.law.rates import RatePolicy
from autoscaler.law.sizing.roles import Role
from autoscaler.law.spec import DOWN_DEFAULT, UP_DEFAULT, ScaleToZero, Scaling, SignalSpec, TargetSpec
from headroom.domain.engines import ENGINES, Engine, NameMapError, renamed
from headroom.errors import HeadroomError
from headroom.units import UnitError, parse_duration_seconds, parse_quantity
from headroom.wire import Decoder, Meta, Quantity, Wire

MOST: Final = {SignalKind.WORK: 2.0, SignalKind.KV_CACHE: 1.0, SignalKind.GPU_UTILIZATION: 1.0}
"""Largest target of a signal that is a share. Above 1 `work` uses up the room that the staffing rule leaves."""


class SpecError(HeadroomError, ValueError):
    """An InferenceAutoscaler that cannot be acted on; the text names object, field and value."""


class TargetRef(Wire):
    kind: str = ""
    name: str = ""
    api_version: str = "apps/v1"


class SignalWire(Wire):
    name: str = ""
    type: str = ""
    target: Quantity = 0
    query: str = ""
    metric_type: str = "AverageValue"
    quantile: Quantity = "0.9"
    capped: bool = False


class PolicyWire(Wire):
    type: str = ""
    value: int = 0
    period_seconds: int = 0


class RulesWire(Wire):
    stabilization_window_seconds: int | None = None
    select_policy: str = ""
    tolerance: Quantity | None = None
    policies: list[PolicyWire] | None = None


class BehaviorWire(Wire):
    scale_up: RulesWire | None = None
    scale_down: RulesWire | None = None


class ToZeroWire(Wire):
    idle_after: str = "10m"
    activation_query: str = ""
    activation_threshold: Quantity = 0


class WorkWire(Wire):
    seconds_per_prompt_token: Quantity | None = None
    seconds_per_output_token: Quantity | None = None
    max_sequences: int = 256


class SpecWire(Wire):
    scale_target_ref: TargetRef = msgspec.field(default_factory=TargetRef)
    engine: str = "vllm"
    metric_names: dict[str, str] = msgspec.field(default_factory=dict)
    mode: str = "Auto"
    min_replicas: int = 1
    max_replicas: int = 0
    project: str = ""
    max_gpus: Quantity | None = msgspec.field(name="maxGPUs", default=None)
    burst_factor: Quantity | None = None
    capacity_check: str = "Enforce"
    scale_to_zero: ToZeroWire | None = None
    gateway: GatewayWire | None = None
    schedule: list[WindowWire] | None = None
    objective: ObjectiveWire | None = None
    signals: list[SignalWire] | None = None
    work: WorkWire | None = None
    behavior: BehaviorWire | None = None


class ResourceMeta(Meta):
    generation: int = 0


class InferenceAutoscaler(Wire):
    """The object. Its status stays JSON: the daemon compares and replaces it as a whole, and holds thousands."""

    metadata: ResourceMeta = msgspec.field(default_factory=ResourceMeta)
    spec: SpecWire = msgspec.field(default_factory=SpecWire)
    status: msgspec.Raw = msgspec.Raw(b"")

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


DECODER: Final = Decoder(InferenceAutoscaler)


@dataclass(frozen=True, slots=True)
class Target:
    """One object, read: what to scale and how."""

    key: str
    namespace: str
    kind: str
    name: str
    """Of the scaled object."""
    api_version: str
    engine: Engine
    advisory: bool
    project: str
    spec: TargetSpec
    costs: tuple[float, float] | None = None
    """GPU seconds per prompt and per output token, where the object states them."""
    most_sequences: int = 256
    gateway: GatewayAsk | None = None
    """What stands in front of it."""
    schedule: tuple[Window, ...] = ()
    role: Role | None = None
    """Of an object with roles: which part of its model this target does."""
    mistakes: tuple[str, ...] = ()
    """What is allowed and likely a mistake, in words."""
    scaled: str = field(default="", compare=False)
    """Kind, namespace and name of what is scaled; the key under which one owner is enforced."""


_renamed = lru_cache(maxsize=1024)(renamed)
"""One engine for all objects that name its metrics alike: what is asked goes by engines."""

APPS: Final = "apps/v1"
GROUPS: Final = "leaderworkerset.x-k8s.io/v1"


def scaled_key(api_version: str, kind: str, namespace: str, name: str) -> str:
    """The key of something scaled: `Deployment/ns/name`, and for kinds beyond the usual ones `Rollout.argoproj.io/ns/name`.

    Two groups may have kinds of one name (a StatefulSet of `apps` and of `apps.kruise.io`).
    """
    return f"{kind_key(api_version, kind)}/{namespace}/{name}"


def kind_key(api_version: str, kind: str) -> str:
    """The kind's part of `scaled_key`; versions of one group are the same kind."""
    group = api_version.rpartition("/")[0]
    usual = (kind in ("Deployment", "StatefulSet") and group in ("", "apps")) or kind == "LeaderWorkerSet"
    return kind if usual else f"{kind}.{group}".rstrip(".")


Names = tuple[tuple[str, str], ...]
"""(published, here): under which names an engine's metrics are exported."""


def read(resource: InferenceAutoscaler, names: Names = (), *, usual_objectives: bool = False) -> Target:
    """The object as the law reads it; `names` are those of the installation, the object's own go before them. Raises SpecError.

    With `usual_objectives` an object that states no objective gets the default of its engine.
    """
    spec, meta = resource.spec, resource.metadata
    fail = _Fail(resource.key)
    engine = ENGINES.get(spec.engine)
    if engine is None:
        raise fail("engine", spec.engine, f"is not one of {', '.join(ENGINES)}")
    try:
        engine = _renamed(_renamed(engine, names), tuple(spec.metric_names.items()))
    except NameMapError as error:
        raise fail("metricNames", spec.metric_names, str(error)) from error
    reference = spec.scale_target_ref
    if not reference.kind:
        raise fail("scaleTargetRef.kind", reference.kind, "is empty")
    if not reference.name:
        raise fail("scaleTargetRef.name", reference.name, "is empty")
    if spec.max_replicas < 1 or not 0 <= spec.min_replicas <= spec.max_replicas:
        raise fail("minReplicas", spec.min_replicas, f"is not between 0 and maxReplicas {spec.max_replicas}")
    objective = usual_objective(engine) if usual_objectives else None
    if spec.objective is not None:
        objective = read_objective(spec.objective, engine, fail)
    signals = _signals(spec, engine, fail)
    signals = signals if objective is None else with_work(signals)
    api_version = _api_version(reference, fail)
    gateway = read_gateway(spec.gateway, meta.namespace, fail)
    if gateway is not None and any(signal.name == GATEWAY for signal in signals):
        raise fail("signals", GATEWAY, "is the name of what waits in the gateway")
    target = Target(
        key=resource.key,
        namespace=meta.namespace,
        kind=reference.kind,
        name=reference.name,
        api_version=api_version,
        engine=engine,
        advisory=spec.mode == "Advisory",
        project=spec.project or meta.namespace,
        spec=TargetSpec(
            min_replicas=spec.min_replicas,
            max_replicas=spec.max_replicas,
            signals=signals,
            queueing=engine.queueing,
            fallback=fallback(engine),
            up=_scaling(spec.behavior.scale_up if spec.behavior else None, UP_DEFAULT, "behavior.scaleUp", fail),
            down=_scaling(
                spec.behavior.scale_down if spec.behavior else None, DOWN_DEFAULT, "behavior.scaleDown", fail
            ),
            scale_to_zero=_to_zero(spec, gateway, fail),
            objective=objective,
            max_gpus=None if spec.max_gpus is None else _number(spec.max_gpus, "maxGPUs", fail),
            burst_factor=0.0
            if spec.burst_factor is None
            else _number(spec.burst_factor, "burstFactor", fail, upto=100.0),
            enforce_capacity=spec.capacity_check != "Off",
        ),
        costs=_costs(spec.work, fail),
        gateway=gateway,
        schedule=read_schedule(spec.schedule, spec.max_replicas, fail),
        most_sequences=spec.work.max_sequences if spec.work else 256,
        scaled=scaled_key(api_version, reference.kind, meta.namespace, reference.name),
    )
    return replace(target, mistakes=(*mistakes(target.spec), *likely_mistakes(target.schedule, spec.min_replicas)))


def _api_version(reference: TargetRef, fail: "_Fail") -> str:
    """apps/v1 is what the API server fills in, whatever the kind."""
    version = reference.api_version or APPS
    known = {"Deployment": APPS, "LeaderWorkerSet": GROUPS}.get(reference.kind)
    if known is None:
        return version
    if version not in (APPS, known):
        raise fail("scaleTargetRef.apiVersion", version, f"is not {known}, where a {reference.kind} is")
    return known


class _Fail:
    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, field_name: str, value: object, fault: str) -> SpecError:
        return SpecError(f"{self._key}: spec.{field_name}: {value!r} {fault}")


def _number(value: Quantity, field_name: str, fail: _Fail, *, above: float = 0.0, upto: float = float("inf")) -> float:
    try:
        number = float(parse_quantity(str(value)))
    except (UnitError, OverflowError) as error:
        raise fail(field_name, value, "is not a number") from error
    if not above < number <= upto:
        limit = f" and at most {upto:g}" if upto != float("inf") else ""
        raise fail(field_name, value, f"is not above {above:g}{limit}")
    return number


def _signals(spec: SpecWire, engine: Engine, fail: _Fail) -> tuple[SignalSpec, ...]:
    if not spec.signals:
        defaults = default_signals(engine)
        if not defaults:
            raise fail("signals", [], f"are needed for engine {engine.name}")
        return defaults
    result = []
    for index, wire in enumerate(spec.signals):
        place = f"signals[{index}]"
        try:
            kind = SignalKind(wire.type)
        except ValueError as error:
            raise fail(f"{place}.type", wire.type, f"is not one of {', '.join(SignalKind)}") from error
        if (kind is SignalKind.QUERY) != bool(wire.query):
            raise fail(f"{place}.query", wire.query, "belongs to signals of type query, and to no other")
        if wire.query and not is_closed(wire.query):
            raise fail(
                f"{place}.query", wire.query, "has quotes or brackets that do not match, or is not one expression"
            )
        if kind is not SignalKind.QUERY and not exports(engine, kind):
            raise fail(f"{place}.type", wire.type, f"is not exported by engine {engine.name}")
        result.append(
            SignalSpec(
                kind=kind,
                target=_number(wire.target, f"{place}.target", fail, upto=MOST.get(kind, float("inf"))),
                name=wire.name or wire.type,
                query=wire.query,
                per_replica=wire.metric_type != "Value",
                quantile=_number(wire.quantile, f"{place}.quantile", fail, upto=0.9999),
                capped=wire.capped,
            )
        )
    names = [signal.name for signal in result]
    if len(set(names)) < len(names):
        raise fail("signals", names, "hold a name twice")
    return tuple(result)


def _to_zero(spec: SpecWire, gateway: GatewayAsk | None, fail: _Fail) -> ScaleToZero | None:
    wire = spec.scale_to_zero
    if wire is None:
        if spec.min_replicas == 0:
            raise fail("minReplicas", 0, "needs scaleToZero with an activationQuery, a gateway or a schedule")
        return None
    if not wire.activation_query and not spec.schedule and (gateway is None or not gateway.holds_at_zero):
        why = (
            "without a gateway"
            if gateway is None
            else f"and {gateway.kind} keeps no requests for a target without pods"
        )
        raise fail("scaleToZero.activationQuery", "", f"is empty, {why}: nothing could bring the target back")
    if wire.activation_query and not is_closed(wire.activation_query):
        raise fail("scaleToZero.activationQuery", wire.activation_query, "has quotes or brackets that do not match")
    try:
        idle = parse_duration_seconds(wire.idle_after)
    except UnitError as error:
        raise fail("scaleToZero.idleAfter", wire.idle_after, "is not a duration such as 10m") from error
    threshold = _number(wire.activation_threshold, "scaleToZero.activationThreshold", fail, above=-1e18)
    return ScaleToZero(idle, threshold, wire.activation_query)


def _costs(wire: WorkWire | None, fail: _Fail) -> tuple[float, float] | None:
    if wire is None or wire.seconds_per_prompt_token is None or wire.seconds_per_output_token is None:
        return None
    return (
        _number(wire.seconds_per_prompt_token, "work.secondsPerPromptToken", fail),
        _number(wire.seconds_per_output_token, "work.secondsPerOutputToken", fail),
    )


def _scaling(wire: RulesWire | None, default: Scaling, place: str, fail: _Fail) -> Scaling:
    if wire is None:
        return default
    scaling = default
    if wire.stabilization_window_seconds is not None:
        scaling = replace(scaling, window_seconds=float(wire.stabilization_window_seconds))
    if wire.tolerance is not None:
        scaling = replace(scaling, tolerance=_number(wire.tolerance, f"{place}.tolerance", fail, above=-1e-9, upto=1.0))
    if wire.policies is not None:
        policies = []
        for index, policy in enumerate(wire.policies):
            if policy.value < 1 or policy.period_seconds < 1 or policy.type not in ("Pods", "Percent"):
                raise fail(f"{place}.policies[{index}]", msgspec.to_builtins(policy), "is not a policy")
            policies.append(RatePolicy(policy.type == "Pods", policy.value, float(policy.period_seconds)))
        scaling = replace(scaling, policies=tuple(policies))
    return replace(scaling, largest=wire.select_policy != "Min", disabled=wire.select_policy == "Disabled")

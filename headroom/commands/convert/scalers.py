"""HorizontalPodAutoscalers and KEDA's ScaledObjects as InferenceAutoscalers. Pure.

`mode: Advisory` unless asked otherwise: the new object says what it would do while the old one still acts.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from headroom import names
from headroom.commands.convert import triggers
from headroom.commands.convert.notes import ConvertError, Manifest, Notes
from headroom.domain.engines import ENGINES
from headroom.domain.gateways import GATEWAYS

_IMAGES: Final = {
    "vllm": r"vllm",
    "sglang": r"sglang|sgl-project",
    "tgi": r"text-generation-inference",
    "triton": r"tritonserver",
    "torchserve": r"torchserve|pytorch/serve",
    "tensorflow-serving": r"tensorflow/serving",
    "fastchat": r"fastchat|fschat",
    "nim": r"nvcr\.io/nim/",
    "lmdeploy": r"lmdeploy",
    "trtllm": r"tensorrt-?llm",
    "llama.cpp": r"llama\.cpp|llama-server",
}
_PLAIN_SIGNALS: Final = {"waiting": "queue", "running": "running", "kv_cache": "kvCache"}
"""Facts of an engine that are signals by themselves."""
_USELESS: Final = "says nothing about a GPU"


def convert_hpa(hpa: Manifest, engine: str | None, mode: str, notes: Notes) -> Manifest:
    """An InferenceAutoscaler in place of an HPA (autoscaling/v2). Raises ConvertError."""
    spec = hpa.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("scaleTargetRef"), dict):
        raise ConvertError(f"{notes.of}: spec.scaleTargetRef is missing")
    target = spec["scaleTargetRef"]
    found: list[dict[str, Any]] = []
    for metric in spec.get("metrics") or []:
        signal = _of_hpa_metric(metric, target, hpa, notes)
        if signal is not None:
            engine = engine or signal.pop("engine", None)
            signal.pop("engine", None)
            found.append(signal)
    if "targetCPUUtilizationPercentage" in spec:
        notes.left_out.append(f"targetCPUUtilizationPercentage: CPU {_USELESS}")
    built = _autoscaler(hpa, target, engine, mode, found, notes)
    built["spec"]["minReplicas"] = spec.get("minReplicas", 1)
    built["spec"]["maxReplicas"] = spec.get("maxReplicas")
    _behaviour(spec.get("behavior"), built, notes)
    _next_steps(notes, mode, f"kubectl delete hpa {hpa.get('metadata', {}).get('name')}")
    return built


def _of_hpa_metric(
    metric: Mapping[str, Any], target: Mapping[str, Any], hpa: Manifest, notes: Notes
) -> dict[str, Any] | None:
    kind = metric.get("type")
    if kind in ("Resource", "ContainerResource"):
        body = metric.get("resource") or metric.get("containerResource") or {}
        notes.left_out.append(f"{kind} metric {body.get('name')}: {body.get('name')} {_USELESS}")
        return None
    if kind == "Pods":
        body = metric.get("pods") or {}
        name, value = str((body.get("metric") or {}).get("name")), (body.get("target") or {}).get("averageValue")
        known = _known_metric(name)
        if known is not None:
            notes.carried.append(f"Pods metric {name} -> type: {known[1]}, target: {value}")
            return {"engine": known[0], "type": known[1], "target": value}
        query = f'sum({_promql_name(name)}{{namespace="{_namespace(hpa)}",pod=~"{target.get("name")}-.*"}})'
        notes.look_at.append(f"Pods metric {name}: check the query {query}")
        return {"type": "query", "name": _signal_name(name), "query": query, "target": value}
    if kind in ("External", "Object"):
        body = metric.get(kind.lower()) or {}
        name, wanted = str((body.get("metric") or {}).get("name")), body.get("target") or {}
        labels = ((body.get("metric") or {}).get("selector") or {}).get("matchLabels") or {}
        matchers = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        query = f"sum({_promql_name(name)}{{{matchers}}})"
        notes.look_at.append(f"{kind} metric {name}: the adapter's rule is not in the HPA; check the query {query}")
        signal = {
            "type": "query",
            "name": _signal_name(name),
            "query": query,
            "target": wanted.get("averageValue") or wanted.get("value"),
        }
        return signal if "averageValue" in wanted else {**signal, "metricType": "Value"}
    notes.left_out.append(f"metric of type {kind}: not known")
    return None


def convert_scaled_object(scaled: Manifest, engine: str | None, mode: str, notes: Notes) -> Manifest:
    """An InferenceAutoscaler in place of a ScaledObject (keda.sh/v1alpha1). Raises ConvertError."""
    spec = scaled.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("scaleTargetRef"), dict):
        raise ConvertError(f"{notes.of}: spec.scaleTargetRef is missing")
    target = {"kind": "Deployment", "apiVersion": "apps/v1", **spec["scaleTargetRef"]}
    found: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    activation: dict[str, Any] | None = None
    most = spec.get("maxReplicaCount", 100)
    for trigger in spec.get("triggers") or []:
        if trigger.get("type") == "cron":
            _scheduled(trigger, most, more, notes)
            continue
        if trigger.get("type") != "prometheus":
            _left_trigger(trigger, notes)
            continue
        metadata = trigger.get("metadata") or {}
        query = str(metadata.get("query") or "")
        gateway = None if "gateway" in more else triggers.gateway(query, _namespace(scaled), notes)
        if gateway is not None:
            more["gateway"] = gateway
            if not GATEWAYS[gateway["type"]].holds_at_zero:
                activation = activation or _activation(metadata)
            continue
        activation = activation or _activation(metadata)
        found.append(_of_query(trigger, metadata, notes))
    built = _autoscaler(scaled, target, engine, mode, found, notes)
    built["spec"] |= more
    least = spec.get("minReplicaCount", 0)
    built["spec"]["minReplicas"] = least
    built["spec"]["maxReplicas"] = most
    _to_zero(spec, least, activation, built, notes)
    advanced = spec.get("advanced") or {}
    _behaviour((advanced.get("horizontalPodAutoscalerConfig") or {}).get("behavior"), built, notes)
    if spec.get("fallback"):
        notes.left_out.append("fallback: none is needed, an outage freezes the replicas")
    if advanced.get("scalingModifiers"):
        notes.left_out.append("advanced.scalingModifiers: write the formula as one query")
    _next_steps(notes, mode, f"kubectl delete scaledobject {scaled.get('metadata', {}).get('name')}")
    return built


def _scheduled(trigger: Mapping[str, Any], most: Any, more: dict[str, Any], notes: Notes) -> None:
    windows: list[dict[str, Any]] = more.get("schedule", [])
    window = triggers.window(trigger, len(windows) + 1, most, notes)
    if window is None:
        return
    if window["name"] in [other["name"] for other in windows]:
        window["name"] = f"{window['name']}-{len(windows) + 1}"
    more["schedule"] = [*windows, window]


def _of_query(trigger: Mapping[str, Any], metadata: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    signal = {"type": "query", "query": metadata.get("query"), "target": metadata.get("threshold")}
    if trigger.get("name"):
        signal["name"] = _signal_name(str(trigger["name"]))
    if trigger.get("metricType") == "Value":
        signal["metricType"] = "Value"
    notes.carried.append(f"prometheus trigger -> type: query, target: {metadata.get('threshold')}")
    if str(metadata.get("ignoreNullValues", "true")).lower() == "true":
        notes.look_at.append("an empty answer counted as 0; here it never lowers")
    return signal


def _activation(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "activationQuery": metadata.get("query"), "activationThreshold": metadata.get("activationThreshold", "0"),
    }  # fmt: skip


def _left_trigger(trigger: Mapping[str, Any], notes: Notes) -> None:
    kind = str(trigger.get("type"))
    if kind in ("cpu", "memory"):
        notes.left_out.append(f"trigger {kind}: {kind} {_USELESS}")
    else:
        notes.left_out.append(
            f"trigger {kind}: only what Prometheus has can be followed; export it there and use type: query"
        )


def _to_zero(
    spec: Mapping[str, Any], least: Any, activation: Mapping[str, Any] | None, built: Manifest, notes: Notes
) -> None:
    if least != 0:
        return
    gateway = built["spec"].get("gateway")
    waking = "schedule" in built["spec"] or (gateway is not None and GATEWAYS[gateway["type"]].holds_at_zero)
    if activation is None and not waking:
        built["spec"]["minReplicas"] = 1
        notes.look_at.append(
            "minReplicaCount 0 without a Prometheus trigger: minReplicas is 1, for nothing could wake it"
        )
        return
    built["spec"]["scaleToZero"] = {"idleAfter": f"{spec.get('cooldownPeriod', 300)}s", **(activation or {})}
    notes.carried.append("minReplicaCount 0, cooldownPeriod -> scaleToZero")
    if activation is not None:
        notes.look_at.append(
            "scaleToZero.activationQuery must see requests while no pod runs: an engine's own metric cannot"
        )
    elif "schedule" in built["spec"] and gateway is None:
        notes.look_at.append(
            "at zero only the schedule brings it back; requests would, with an activationQuery or a gateway"
        )


def _autoscaler(
    old: Manifest, target: Mapping[str, Any], engine: str | None, mode: str, signals: list[dict[str, Any]], notes: Notes
) -> Manifest:
    meta = old.get("metadata") or {}
    if not meta.get("name"):
        raise ConvertError(f"{notes.of}: metadata.name is missing")
    spec: dict[str, Any] = {
        "scaleTargetRef": {key: target[key] for key in ("apiVersion", "kind", "name") if key in target},
        "engine": engine or "custom",
        "mode": mode,
    }
    if engine is None and not signals:
        raise ConvertError(f"{notes.of}: no engine known and no metric to carry over: name the engine with --engine")
    if engine is not None:
        notes.look_at.append(
            f"engine {engine} has signals of its own (work, KV cache), which need no target of yours: delete `signals` to use them"
            if signals
            else f"engine {engine}: its own signals (work, KV cache) are used"
        )
    if signals:
        spec["signals"] = signals
    wanted = {"name": meta["name"]} | ({"namespace": meta["namespace"]} if meta.get("namespace") else {})
    return {"apiVersion": names.API_VERSION, "kind": names.KIND_AUTOSCALER, "metadata": wanted, "spec": spec}


def _behaviour(behaviour: object, built: Manifest, notes: Notes) -> None:
    if isinstance(behaviour, dict) and behaviour:
        built["spec"]["behavior"] = behaviour
        notes.carried.append("behavior, as it is")


def _next_steps(notes: Notes, mode: str, delete: str) -> None:
    if mode == "Advisory":
        notes.look_at.append(f"mode Advisory only says what it would do. When you agree: {delete}, then set mode: Auto")


def engine_of(workload: Manifest) -> str | None:
    """The engine that a workload's images name."""
    from headroom.commands.convert.pods import pod_specs

    for spec in pod_specs(workload):
        for container in spec["containers"]:
            for engine, pattern in _IMAGES.items():
                if re.search(pattern, str(container.get("image", ""))):
                    return engine
    return None


def _known_metric(name: str) -> tuple[str, str] | None:
    """(engine, signal type) of a metric name; adapters write underscores for colons."""
    for engine in ENGINES.values():
        for fact, signal in _PLAIN_SIGNALS.items():
            if any(_plain(known) == _plain(name) for known in getattr(engine, fact).names):
                return engine.name, signal
    return None


def _plain(name: str) -> str:
    return name.replace(":", "_")


def _promql_name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_:]", "_", name)


def _signal_name(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:63]


def _namespace(manifest: Manifest) -> str:
    return str((manifest.get("metadata") or {}).get("namespace", "default"))

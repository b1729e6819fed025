"""`headroom autoscaler explain`: an object's last decision in words a person reads top to bottom. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from autoscaler.api.objective import ObjectiveWire
from autoscaler.api.resource import InferenceAutoscaler
from autoscaler.api.schedule import WindowWire
from autoscaler.tick.status import percent


def explain(resource: InferenceAutoscaler) -> str:
    """The text. An object that no autoscaler has seen yet says so."""
    spec = resource.spec
    status = msgspec.json.decode(resource.status) if resource.status else {}
    reference = spec.scale_target_ref
    lines = [
        f"{resource.key}: {reference.kind} {reference.name}, engine {spec.engine}, {spec.mode}, "
        f"{spec.min_replicas} to {spec.max_replicas} replicas",
    ]
    if not status:
        return "\n".join([*lines, "No autoscaler has looked at it yet."])
    if status.get("observedGeneration") != resource.metadata.generation:
        lines.append("The object was changed after the last decision.")
    if "currentReplicas" in status:
        unmet = status.get("unmetReplicas", 0)
        lines.append(
            f"Now {status['currentReplicas']} replicas, {status.get('readyReplicas', 0)} ready; "
            f"the signals ask for {status.get('desiredReplicas')}" + (f", {unmet} unmet." if unmet else ".")
        )
    lines += _section("Objective", _objective(spec.objective, status.get("objective") or {}))
    lines += _section("Schedule", [_window(window) for window in spec.schedule or ()])
    lines += _section("Why", [f"{limit['rule']}: {limit.get('message', '')}" for limit in status.get("limits", ())])
    lines += _section("Signals", _table(_signals(status.get("signals", ()))))
    lines += _section("Learned", _learned(status.get("learned") or {}))
    lines += _section("Conditions", _table(_conditions(status.get("conditions", ()))))
    lines += _section("History", _table(_history(status.get("history", ()))))
    return "\n".join(lines)


def _section(title: str, rows: Iterable[str]) -> list[str]:
    rows = list(rows)
    return ["", f"{title}:", *(f"  {row}" for row in rows)] if rows else []


def _objective(wire: ObjectiveWire | None, seen: Mapping[str, Any]) -> list[str]:
    if wire is None and not seen:
        return []
    stated = {
        "first token in": wire.time_to_first_token, "between tokens": wire.inter_token_latency, "request in": wire.request_latency,
    } if wire else {}  # fmt: skip
    words = ", ".join(f"{name} {text}" for name, text in stated.items() if text) or "the engine's default"
    if not seen:
        return [f"{words}; no request has been seen since the price of a token is known"]
    rows = [
        f"{words}: {_percent(seen['met'])} of the requests of about the last hour met it, {_percent(seen['wanted'])} are wanted"
    ]
    if "now" in seen:
        more, fewer = _percent(seen["withOneMore"]), _percent(seen["withOneFewer"])
        rows.append(
            f"expected of the load now: {_percent(seen['now'])}; with one replica more {more}, with one fewer {fewer}"
        )
    return rows


def _window(wire: WindowWire) -> str:
    return f"{wire.name}: at least {wire.min_replicas} from '{wire.start}' to '{wire.end}', {wire.time_zone}"


def _percent(share: str) -> str:
    return percent(float(share))


def _signals(signals: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    heading = ["NAME", "STATE", "READING", "TARGET", "ASKS FOR", "ACCEPTS", "SAMPLED", ""]
    rows = [
        [
            str(signal.get("name", "")),
            str(signal.get("state", "")),
            str(signal.get("value", "")) if "wish" in signal else "-",
            str(signal.get("target", "")),
            str(signal.get("wish", "-")),
            str(signal.get("lowest", "-")),
            str(signal.get("sampledAt", "-")),
            str(signal.get("message", "")),
        ]
        for signal in signals
    ]
    return [heading, *rows] if rows else []


_ERRORS: Final = ("promptTokenError", "outputTokenError")
_TOLD_APART: Final = 0.5
"""Of a price: one whose standard error is larger is not known by itself."""


def _learned(learned: Mapping[str, Any]) -> list[str]:
    words = {
        "startUpSeconds": "a new replica takes {} s to be ready",
        "holdSeconds": "replicas are kept for {} s after they were last needed",
        "scrapeSeconds": "its pods are scraped every {} s",
        "secondsPerPromptToken": "a prompt token costs {} GPU seconds" + _give_or_take(learned, "promptTokenError"),
        "secondsPerOutputToken": "an output token costs {} GPU seconds" + _give_or_take(learned, "outputTokenError"),
    }
    lines = [text.format(learned[name]) for name, text in words.items() if name in learned]
    errors = [error for name in _ERRORS if (error := _number(learned.get(name))) is not None]
    if any(error > _TOLD_APART for error in errors):
        lines.append(
            "the two prices cannot be told apart yet: prompt and output tokens have come in one mix. For that mix their sum is right"
        )
    return lines


def _give_or_take(learned: Mapping[str, Any], name: str) -> str:
    error = _number(learned.get(name))
    if error is None:
        return ""
    return f", give or take {100 * error:.0f} %" if error < 1 else ", which may be wrong by as much"


def _number(text: object) -> float | None:
    """A status is data: what is no number says nothing."""
    try:
        number = float(str(text))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _conditions(conditions: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [str(c.get("type", "")), str(c.get("status", "")), str(c.get("reason", "")), str(c.get("message", ""))]
        for c in conditions
    ]


def _history(history: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [
            str(h.get("time", "")),
            f"{h.get('from')} -> {h.get('to')}",
            str(h.get("reason", "")),
            str(h.get("message", "")),
        ]
        for h in history
    ]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

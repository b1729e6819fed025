"""Triggers of a ScaledObject that become more than a query: a clock's windows, and what waits in a gateway. Pure."""

import re
from collections.abc import Mapping
from typing import Any, Final

from headroom.commands.convert.notes import Notes
from headroom.domain.gateways import GATEWAYS, LLM_D

_MATCHER: Final = re.compile(r'\s*(\w+)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_PICKER: Final = re.compile(r"(.+)-epp")
"""Service of an endpoint picker; its pool usually has the name before it."""


def window(trigger: Mapping[str, Any], number: int, most: Any, notes: Notes) -> dict[str, Any] | None:
    """A cron trigger as a window of `spec.schedule`; None where it says too little. `most` is maxReplicaCount."""
    metadata = trigger.get("metadata") or {}
    name = (
        re.sub(r"[^a-zA-Z0-9-]+", "-", str(trigger.get("name") or "")).strip("-").lstrip("-0123456789")[:60]
        or f"window-{number}"
    )
    wanted = str(metadata.get("desiredReplicas", "")).strip()
    missing = [field for field in ("start", "end", "timezone", "desiredReplicas") if not metadata.get(field)]
    if missing or not wanted.isdecimal():
        what = f"{', '.join(missing)} missing" if missing else f"desiredReplicas {wanted!r} is no count"
        notes.left_out.append(f"trigger cron {name}: {what}")
        return None
    if wanted == "0":
        notes.left_out.append(f"trigger cron {name}: desiredReplicas 0 asks for nothing")
        return None
    replicas = int(wanted)
    if isinstance(most, int) and replicas > most:
        notes.look_at.append(
            f"trigger cron {name}: desiredReplicas {wanted} is above maxReplicaCount {most}, which is taken"
        )
        replicas = most
    notes.carried.append(f"trigger cron -> schedule {name}: at least {replicas} replicas")
    return {
        "name": name, "start": str(metadata["start"]), "end": str(metadata["end"]),
        "timeZone": str(metadata["timezone"]), "minReplicas": replicas,
    }  # fmt: skip


def gateway(query: str, namespace: str, notes: Notes) -> dict[str, Any] | None:
    """The gateway whose queue a query is, as `spec.gateway`; None where it is none, or more than its queue."""
    for kind in GATEWAYS.values():
        names = "|".join(kind.waiting)
        if not re.search(rf"\b(?:{names})\b", query):
            continue
        matchers = _matchers(query, names)
        part = None if matchers is None else matchers.get(kind.label) or _pool_of(kind.name, matchers, notes)
        if matchers is None or part is None:
            why = "it is more than that queue" if matchers is None else f"it names no {kind.label}"
            notes.look_at.append(
                f"the query reads the queue of a {kind.name} gateway and stays a query, for {why}: consider spec.gateway"
            )
            return None
        found = {"type": kind.name, kind.names_by: part}
        if matchers.get("namespace", namespace) != namespace:
            found["namespace"] = matchers["namespace"]
        notes.carried.append(f"prometheus trigger on {kind.name}'s queue -> gateway, {kind.names_by} {part}")
        notes.look_at.append(
            "gateway: how many requests are for a replica is learned, the trigger's threshold is not used"
        )
        return found
    return None


def _pool_of(kind: str, matchers: Mapping[str, str], notes: Notes) -> str | None:
    service = _PICKER.fullmatch(matchers.get("service", ""))
    if kind != LLM_D.name or service is None:
        return None
    notes.look_at.append(
        f"gateway.pool {service[1]}: taken from the picker's service {service[0]}; check the InferencePool's name"
    )
    return service[1]


def _matchers(query: str, names: str) -> dict[str, str] | None:
    """The labels that a plain sum of one queue asks for; None where the query is anything else."""
    whole = re.fullmatch(
        rf"\s*(?:sum\s*(?:by\s*\([^)]*\)\s*)?\(\s*)?(?:{names})\s*(?:\{{([^}}]*)\}})?\s*\)?\s*(?:or\s+(?:on\s*\(\)\s*)?vector\(\s*0\s*\)\s*)?",
        query,
    )
    if whole is None:
        return None
    text, found = (whole[1] or "").strip(), {}
    while text:
        matcher = _MATCHER.match(text)
        if matcher is None:
            return None
        found[matcher[1]] = matcher[2]
        text = text[matcher.end() :].strip()
    return found

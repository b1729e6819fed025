"""Targets of other kinds, and what is said of an object."""

import json
from typing import Any

from tests.fakes.autoscaler_bench import DEPLOYMENTS, IA, Bench, stamp

FOUR_MINUTES = 16


def set_replicas(bench: Bench, count: int, name: str = "llm", writer: str = "") -> None:
    """Somebody else changes the count."""
    body = bench.api.get(DEPLOYMENTS, name)
    body["spec"]["replicas"] = count
    body["metadata"]["generation"] += 1
    if writer:
        fields: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
        body["metadata"]["managedFields"] = [{"manager": writer, "time": stamp(bench.now), "fieldsV1": fields}]
    bench.api.put(DEPLOYMENTS, body)


def messages(bench: Bench, name: str = "llm") -> str:
    return json.dumps(bench.api.get(IA, name).get("status", {}))


def warnings(bench: Bench) -> list[str]:
    return [r.body["reason"] for r in bench.writes("/events") if r.body["type"] == "Warning"]

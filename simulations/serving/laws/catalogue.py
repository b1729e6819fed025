"""All laws by name, with the defaults of their documentation and the grid on which each is tuned."""

from collections.abc import Mapping
from typing import Final

from headroom.errors import HeadroomError
from simulations.serving.laws import headroom, hpa, knowing, others
from simulations.serving.laws.base import Entry

LAWS: Final[Mapping[str, Entry]] = {
    entry.name: entry
    for entry in (
        Entry(
            "hpa-cpu", "HPA on CPU", hpa.make_cpu, {"target": 80.0, "down_window": 300.0},
            {"target": (24.0,)},
            "kubernetes.io, Horizontal Pod Autoscaling; target 80 %",
        ),
        Entry(
            "hpa-gpu", "HPA on GPU utilisation", hpa.make_gpu, {"target": 80.0, "down_window": 300.0},
            {"target": (90.0, 95.0)},
            "kubernetes.io, Horizontal Pod Autoscaling; DCGM_FI_DEV_GPU_UTIL, target 80 %",
        ),
        Entry(
            "keda-queue", "KEDA on waiting requests", hpa.make_keda_queue, {"target": 5.0, "down_window": 300.0, "polling": 15.0},
            {"target": (1.0,)},
            "vLLM production-stack, KEDA guide: vllm:num_requests_waiting, target 5, polling 15 s",
        ),
        Entry(
            "keda-running", "KEDA on requests inside", hpa.make_keda_inside, {"target": 16.0, "down_window": 300.0, "polling": 15.0},
            {"target": (6.0, 16.0, 25.0, 30.0, 36.0, 43.0, 52.0)},
            "llm-d, autoscaling with KEDA: running requests, target 16",
        ),
        Entry(
            "kpa", "Knative KPA", others.make_kpa, {"target": 70.0, "stable": 60.0},
            {"target": (6.0, 12.0, 25.0, 30.0, 36.0, 43.0), "stable": (60.0, 300.0)},
            "Knative, Autoscaling: concurrency, 70 % of 100, stable window 60 s",
        ),
        Entry(
            "apa-kv", "AIBrix APA on KV cache", others.make_apa_kv, {"target": 0.5, "cooldown": 300.0},
            {"target": (0.1,)},
            "AIBrix, Autoscaling: APA, gpu_cache_usage_perc 0.5",
        ),
        Entry(
            "wva", "WVA saturation", others.make_wva,
            {"kv_limit": 0.8, "queue_limit": 5.0, "kv_spare": 0.1, "queue_spare": 3.0, "interval": 60.0},
            {"kv_limit": (0.2,)},
            "llm-d workload-variant-autoscaler, saturation analyser v1",
        ),
        Entry(
            "llmd-slo", "llm-d SLO law", others.make_slo, {"up_at": 0.55, "down_share": 0.727},
            {"up_at": (0.3, 0.4, 0.55, 0.7, 0.85), "down_share": (0.727,)},
            "llm-d, autoscaling with KEDA on endpoint-picker metrics: up past 0.55, down below 0.40",
        ),
        Entry(
            "static", "Static", knowing.make_static, {"replicas": 0.0},
            {"replicas": (7.0, 8.0, 9.0, 10.0, 12.0)},
            "a fixed count; default: the busiest minute at 80 % busy", knows_future=True,
        ),
        Entry(
            "headroom", "Headroom", headroom.make, {"target": 0.9},
            {"target": (0.85, 0.95, 1.0, 1.05, 1.1)},
            "autoscaler.law.decide", beside=tuple({"burst_factor": factor} for factor in (2.0, 3.0, 4.0, 5.0, 6.0)),
        ),
        Entry(
            "headroom-ahead", "Headroom, told one cold start", knowing.make_foresight, {"target": 0.9, "ahead": 120.0},
            {"target": (0.9, 1.0, 1.1)},
            "autoscaler.law.decide with the arrivals of the next two minutes", knows_future=True,
        ),
        Entry(
            "clairvoyant", "Clairvoyant", knowing.make_clairvoyant, {"rho": 0.9, "ahead": 120.0},
            {"rho": (0.8, 0.9, 1.0)},
            "docs/simulation.md", knows_future=True,
        ),
    )
}  # fmt: skip


class LawError(HeadroomError):
    """An unknown law."""


def law_by_name(name: str) -> Entry:
    """The entry. Raises LawError that lists the names."""
    if name not in LAWS:
        raise LawError(f"unknown law {name!r}; there are {', '.join(LAWS)}")
    return LAWS[name]

"""All laws by name, with the defaults of their documentation and all that their users can set."""

from collections.abc import Mapping
from typing import Final

from headroom.errors import HeadroomError
from simulations.serving.laws import aibrix, headroom, hpa, knative, knowing, llmd
from simulations.serving.laws.base import Entry
from simulations.serving.laws.space import Choice, Range

_POLLING: Final = Choice((5.0, 15.0, 30.0, 60.0))

OURS: Final = ("headroom", "headroom-target", "headroom-ahead")
"""Headroom's own law in its forms: it takes every constant as a parameter, and its runs depend on the daemon's code."""
LAWS: Final[Mapping[str, Entry]] = {
    entry.name: entry
    for entry in (
        Entry(
            "hpa-cpu", "HPA on CPU", hpa.make_cpu, {**hpa.DEFAULTS, "target": 80.0},
            {**hpa.SPACE, "target": Range(5.0, 95.0)},
            "kubernetes.io, Horizontal Pod Autoscaling; target 80 %",
        ),
        Entry(
            "hpa-gpu", "HPA on GPU utilisation", hpa.make_gpu, {**hpa.DEFAULTS, "target": 80.0},
            {**hpa.SPACE, "target": Range(30.0, 99.9, logarithmic=False)},
            "kubernetes.io, Horizontal Pod Autoscaling; DCGM_FI_DEV_GPU_UTIL, target 80 %",
        ),
        Entry(
            "keda-queue", "KEDA on waiting requests", hpa.make_keda_queue, {**hpa.DEFAULTS, "target": 5.0, "polling": 15.0},
            {**hpa.SPACE, "target": Range(0.2, 50.0), "polling": _POLLING},
            "vLLM production-stack, KEDA guide: vllm:num_requests_waiting, target 5, polling 15 s",
        ),
        Entry(
            "keda-running", "KEDA on requests inside", hpa.make_keda_inside, {**hpa.DEFAULTS, "target": 16.0, "polling": 15.0},
            {**hpa.SPACE, "target": Range(2.0, 150.0), "polling": _POLLING},
            "running and waiting requests in one trigger, target 16 as llm-d's guide has it for running ones",
            did_well=tuple(
                {"target": target, "down_window": window}
                for target, window in ((43.0, 600.0), (12.0, 900.0), (36.0, 300.0), (6.0, 900.0), (25.0, 900.0), (43.0, 180.0))
            ),
        ),
        Entry(
            "keda-epp", "KEDA on EPP metrics", hpa.make_keda_epp,
            {**hpa.DEFAULTS, "queue_target": 1.0, "running_target": 16.0, "polling": 15.0, "up_window": 300.0},
            {**hpa.SPACE, "up_window": Choice((0.0, 15.0, 30.0, 60.0, 300.0)), "queue_target": Range(0.2, 50.0),
             "running_target": Range(2.0, 150.0), "polling": _POLLING},
            "llm-d, autoscaling with KEDA on endpoint-picker metrics: queue 1, running 16, both windows 300 s",
        ),
        Entry(
            "llmd-tokens", "llm-d token law", llmd.make_tokens, llmd.TOKENS_DEFAULTS, llmd.TOKENS_SPACE,
            "llm-d, token-aware autoscaling: backlog over prefill speed in 1.5 s, KV 80 %",
        ),
        Entry(
            "llmd-slo", "llm-d SLO law", llmd.make_slo, llmd.SLO_DEFAULTS, llmd.SLO_SPACE,
            "llm-d, SLO-aware autoscaling: up past 0.55, down below 0.40",
            did_well=({"up_at": 0.4}, {"up_at": 0.85}, {"up_at": 0.3}, {"up_at": 0.7}),
        ),
        Entry(
            "kpa", "Knative KPA", knative.make, knative.DEFAULTS, knative.SPACE,
            "Knative, Autoscaling: concurrency, 70 % of 100, stable window 60 s",
        ),
        Entry(
            "apa-kv", "AIBrix APA on KV cache", aibrix.make_kv, aibrix.DEFAULTS, aibrix.SPACE,
            "AIBrix, Autoscaling: APA, KV cache 0.5",
        ),
        Entry(
            "wva", "WVA saturation (deprecated)", llmd.make_wva, llmd.WVA_DEFAULTS, llmd.WVA_SPACE,
            "llm-d workload-variant-autoscaler, saturation analyser v1; its project recommends KEDA since 2026",
        ),
        Entry(
            "static", "Static", knowing.make_static, {"replicas": 0.0}, {"replicas": Range(1.0, 64.0, whole=True)},
            "a fixed count; default: the busiest minute at 80 % busy", knows_future=True,
        ),
        Entry(
            "headroom", "Headroom", headroom.make, {}, {"share": Range(0.9, 0.995)}, "autoscaler.law.decide, with the objective",
        ),
        Entry(
            "headroom-target", "Headroom without an objective", headroom.make, {"target": 0.9}, {"target": Range(0.7, 1.2)},
            "autoscaler.law.decide, sized by the target of work",
        ),
        Entry(
            "headroom-ahead", "Headroom, told one cold start", knowing.make_foresight, {"ahead": 120.0, "target": 0.9},
            {"target": Range(0.7, 1.2)},
            "autoscaler.law.decide with the arrivals of the next two minutes", knows_future=True,
        ),
        Entry(
            "clairvoyant", "Clairvoyant", knowing.make_clairvoyant, {"rho": 0.9, "ahead": 120.0},
            {"rho": Range(0.6, 1.3, logarithmic=False)},
            "docs/simulation.md", knows_future=True,
        ),
    )
}  # fmt: skip

RIVALS: Final = ("hpa-gpu", "keda-queue", "keda-running", "keda-epp", "llmd-tokens", "llmd-slo", "kpa", "apa-kv", "wva")
"""Laws that Headroom is compared with. (HPA on CPU does not see the load at all; it is here for `headroom simulate serving`.)"""


class LawError(HeadroomError):
    """An unknown law."""


def law_by_name(name: str) -> Entry:
    """The entry. Raises LawError that lists the names."""
    if name not in LAWS:
        raise LawError(f"unknown law {name!r}; there are {', '.join(LAWS)}")
    return LAWS[name]

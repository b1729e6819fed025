"""A made-up cluster to try advise on: whole cards and time slices, models of all sizes, seeded. Nothing in it is real."""

import random
from typing import Any, Final

import msgspec

from agent.energy.tariff import Tariff
from simulations.advise.reading import Export
from simulations.advise.use import Use

_CARDS: Final = {
    "NVIDIA-L40S": (46068, 8, 4, 1.86),
    "NVIDIA-A100-SXM4-80GB": (81920, 8, 3, 3.43),
    "Tesla-T4": (15360, 4, 3, 0.53),
}
"""Model: memory, cards a node, nodes, price of an hour."""
_WORKLOADS: Final = (
    # name, namespace, card, replicas, GPUs each, peak MiB, busy 95 %, what it asks
    ("chat-llama-8b", "chat", "NVIDIA-L40S", 6, 1, 17_900, 0.22, "whole"),
    ("code-qwen-14b", "code", "NVIDIA-L40S", 4, 1, 13_200, 0.35, "whole"),
    ("rerank", "search", "NVIDIA-L40S", 5, 1, 3_100, 0.12, "whole"),
    ("translate-gemma", "chat", "NVIDIA-L40S", 3, 1, 11_800, 0.08, "whole"),
    ("embed-old", "search", "NVIDIA-L40S", 2, 1, 2_400, 0.01, "whole"),
    ("expert-llama-70b", "research", "NVIDIA-A100-SXM4-80GB", 3, 2, 71_000, 0.55, "whole"),
    ("notebook", "research", "NVIDIA-A100-SXM4-80GB", 6, 1, 9_000, 0.03, "whole"),
    ("vision", "media", "NVIDIA-A100-SXM4-80GB", 4, 1, 21_500, 0.30, "whole"),
    ("speech", "media", "Tesla-T4", 6, 1, 3_900, 0.25, "slice"),
    ("ocr", "media", "Tesla-T4", 5, 1, 2_100, 0.15, "slice"),
)
TARIFF: Final = Tariff(currency="$", card_hour_prices={model: price for model, (_, _, _, price) in _CARDS.items()})


def example(seed: int = 7, *, scale: int = 1) -> tuple[Export, dict[str, Use]]:
    """The cluster and what its pods used; `scale` multiplies nodes and replicas."""
    rng = random.Random(seed)
    export, use, slots = Export(), dict[str, Use](), dict[str, list[str]]()
    for model, (memory_mib, per_node, count, _) in _CARDS.items():
        sliced = model == "Tesla-T4"
        names = [f"{model.lower().split('-')[1]}-{at + 1:03d}" for at in range(count * scale)]
        slots[model] = [name for name in names for _ in range(per_node * (2 if sliced else 1))]
        for name in names:
            export.add("Node", _json(_node(name, model, memory_mib, per_node, slices=4 if sliced else 1)))
    for name, namespace, model, replicas, gpus, peak, busy, _ in _WORKLOADS:
        for at in range(replicas * scale):
            node = slots[model].pop(0)
            del slots[model][: gpus - 1]
            pod = _pod(name, namespace, node, at, gpus)
            export.add("Pod", _json(pod))
            draw = rng.uniform(0.85, 1.0)
            use[f"{namespace}/{pod['metadata']['name']}"] = Use(round(peak * draw), busy * rng.uniform(0.8, 1.0))
    export.add("HorizontalPodAutoscaler", _json(_HPA))
    return export, use


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)


_HPA: Final = {
    "kind": "HorizontalPodAutoscaler", "metadata": {"name": "chat-llama-8b", "namespace": "chat"},
    "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "chat-llama-8b"}, "metrics": [{"type": "Resource"}]},
}  # fmt: skip


def _node(name: str, model: str, memory_mib: int, cards: int, *, slices: int) -> dict[str, Any]:
    shared = (
        {"nvidia.com/gpu.replicas": str(slices), "nvidia.com/gpu.sharing-strategy": "time-slicing"}
        if slices > 1
        else {}
    )
    labels = {
        "kubernetes.io/hostname": name, "nvidia.com/gpu.product": model + ("-SHARED" if slices > 1 else ""),
        "nvidia.com/gpu.memory": str(memory_mib), "nvidia.com/gpu.count": str(cards), **shared,
    }  # fmt: skip
    amounts = {"cpu": "96", "memory": "768Gi", "pods": "110", "nvidia.com/gpu": str(cards * slices)}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": amounts, "capacity": amounts},
    }


def _pod(name: str, namespace: str, node: str, at: int, gpus: int) -> dict[str, Any]:
    owner = {"kind": "ReplicaSet", "name": f"{name}-5d4f8c7b9d", "uid": f"rs-{name}", "controller": True}
    limits = {"nvidia.com/gpu": str(gpus), "cpu": "6", "memory": "32Gi"}
    return {
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-5d4f8c7b9d-{at:05d}", "namespace": namespace, "uid": f"{name}-{at}", "ownerReferences": [owner],
            "creationTimestamp": "2026-11-01T00:00:00Z",
        },
        "spec": {"nodeName": node, "containers": [{"name": "server", "resources": {"limits": limits, "requests": limits}}]},
        "status": {"phase": "Running"},
    }  # fmt: skip


def _measure(scale: int) -> None:
    """Print what advising on a large made-up cluster takes."""
    import resource
    import time

    from simulations.advise.advice import advise
    from simulations.advise.tenants import Rules

    export, use = example(scale=scale)
    began = time.process_time()
    advice = advise(export, use, TARIFF, Rules())
    seconds = time.process_time() - began
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{len(export.nodes):,} nodes, {len(export.pods):,} pods: {seconds:.1f} s of processor time, {megabytes:.0f} MB;"
        f" {advice.held:,} cards held, {advice.would:,} would do"
    )


if __name__ == "__main__":
    import sys

    _measure(int(sys.argv[1]) if len(sys.argv) > 1 else 500)

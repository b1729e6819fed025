"""The example of docs/top.md is what `headroom top` shows of this cluster."""

import json
import time
from pathlib import Path

import click

from headroom.commands.ask.top_view import picture
from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, extender, node, pod
from tests.fakes.prometheus import FakePrometheus, series
from tests.paths import DOCS
from tests.waiting import until

METRICS = (
    "headroom_card_memory_used_bytes",
    "headroom_card_unattributed_memory_bytes",
    "headroom_card_utilization_ratio",
)
CARDS = {
    ("gpu-a", "gpu-a-gpu0"): (52.4, 0.0, 0.81),
    ("gpu-a", "gpu-a-gpu1"): (38.1, 0.0, 0.42),
    ("gpu-b", "gpu-b-gpu0"): (21.0, 9.5, 0.07),
    ("gpu-b", "gpu-b-gpu1"): (0.0, 0.0, 0.0),
}
POD_METRIC = "headroom_pod_memory_used_bytes"
USED = [
    ("llama-70b", "gpu-a-gpu0", 52.4), ("qwen-32b", "gpu-a-gpu1", 38.1), ("embed", "gpu-b-gpu0", 11.5),
]  # fmt: skip
PODS = [
    ("llama-70b", "60Gi", "gpu-a"),
    ("qwen-32b", "40Gi", "gpu-a"),
    ("mistral", "18Gi", "gpu-a"),
    ("embed", "12Gi", "gpu-b"),
]


async def test_the_example_of_the_page(tmp_path: Path) -> None:
    async with ApiServer() as api, FakePrometheus().serve() as prometheus:
        api.put(NODES, node("gpu-a", 80, 80))
        api.put(NODES, node("gpu-b", 40, 40))
        async with extender(
            api, tmp_path, prometheus_url=prometheus.url, measured_every_seconds=1.0, preemption=False
        ) as running:
            for name, vram, where in PODS:
                await running.place(await running.create(pod(name, vram=vram)), where)
            await running.filter(await running.create(pod("llama-405b", vram="100Gi")))
            now = time.time()
            for at, metric in enumerate(METRICS):
                scale = 1 if at == 2 else 2**30
                found = [
                    series({"__name__": metric}, (now, figures[at] * scale), node=name, card=card)
                    for (name, card), figures in CARDS.items()
                ]
                prometheus.answer(metric, *found)
            used = [
                series(
                    {"__name__": POD_METRIC},
                    (now, gib * 2**30),
                    node=card[:5],
                    card=card,
                    namespace="default",
                    pod=name,
                )
                for name, card, gib in USED
            ]
            prometheus.answer(POD_METRIC, *used)

            async def four_are_busy() -> bool:
                return "4 cards" in json.loads((await running.get("/v1/cards"))[1]).get("busy", "")

            await until(four_are_busy, seconds=20)
            await running.until(lambda: running.daemon.state.reading.cards == 4, seconds=20)
            page = json.loads((await running.get("/v1/cards"))[1])
    text = (DOCS / "top.md").read_text()
    for columns in (70, 120):
        example = "\n".join(click.unstyle(line) for line in picture(page, columns=columns))
        assert example in text, example

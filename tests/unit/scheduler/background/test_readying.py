"""Before kube-scheduler asks, the keys of the next pod's kind are up to date."""

from pathlib import Path
from typing import Any

import pytest

from scheduler.placement import filtering
from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, extender, node, pod
from tests.waiting import turns


class Looked:
    """Counts how often nodes are judged."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        fit = filtering.fit

        def counted(*args: Any, **options: Any) -> filtering.Fit:
            self.count += 1
            return fit(*args, **options)

        monkeypatch.setattr(filtering, "fit", counted)

    def reset(self) -> None:
        self.count = 0


async def test_a_filter_call_finds_its_kind_of_pod_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ApiServer() as api:
        for at in range(3):
            api.put(NODES, node(f"n{at}", 80, 80))
        async with extender(api, tmp_path, preemption=False, naming_ahead=False) as running:
            looked = Looked(monkeypatch)
            pods = [await running.create(pod(f"p{at}", vram=f"{10 + at}Gi")) for at in range(3)]
            await turns()
            assert looked.count > 0
            names = [f"n{at}" for at in range(3)] + [f"padding-{at:05d}" for at in range(300)]
            for body in pods:  # each answer changes a row, and the next pod's kind is looked at again after it
                looked.reset()
                await turns()
                before = looked.count
                args = {"Pod": body, "Nodes": None, "NodeNames": names}
                status, answer = await running.post("/filter", args)
                assert status == 200
                assert len(answer["NodeNames"]) == 1
                assert looked.count - before <= 1  # the readying after the answer, not the call itself


async def test_a_pod_that_waits_no_more_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ApiServer() as api:
        api.put(NODES, node("n0", 80))
        async with extender(api, tmp_path, preemption=False, naming_ahead=False) as running:
            created = await running.create(pod("p", vram="10Gi"))
            await running.place(created)
            looked = Looked(monkeypatch)
            running.daemon.readier.answered()
            await turns()
            assert looked.count == 0
            assert await running.metric("headroom_cycle_failures_total", task="ready") == 0

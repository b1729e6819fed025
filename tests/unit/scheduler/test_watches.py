"""A watch that is silent for long shows on the metrics page and in readiness, and is not believed."""

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, PODS, extender, node, pod


@pytest.mark.parametrize("resource", [PODS, NODES])
async def test_a_silent_watch_makes_the_extender_unready_until_it_is_heard_again(tmp_path: Path, resource: Any) -> None:
    """s25. The other watch goes on all the time."""
    async with ApiServer() as api:
        api.put(NODES, node("gpu", 80))
        other = NODES if resource == PODS else PODS
        async with extender(api, tmp_path, watch_silence_seconds=1.0) as running:
            wanted = await running.create(pod("llm", vram="50Gi"))

            def silent() -> bool:
                api.bookmark(other)
                return not running.daemon.health.ready

            await running.until(silent)
            kind = resource.rsplit("/", 1)[1]
            assert await running.metric("headroom_watch_age_seconds", kind=kind) >= 1.0
            status, page = await running.get("/readyz")
            assert status == 503
            assert f"not ready {kind} watch: heard" in page
            status, answer = await running.post("/filter", {"Pod": wanted, "NodeNames": ["gpu"]})
            assert status == 503
            assert "not ready" in answer["Error"]
            api.bookmark(resource)
            await running.until(lambda: running.daemon.health.ready)
            assert await running.metric("headroom_watch_age_seconds", kind=kind) < 1.0

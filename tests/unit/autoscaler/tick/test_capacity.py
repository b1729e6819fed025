"""What the extender says of room in the cluster, and how much of it a raise may take."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from autoscaler.adapters.fit_client import FitClient
from autoscaler.law.inputs import Capacity
from tests.fakes.autoscaler_bench import IA, Bench
from tests.unit.autoscaler.tick.fitting import serving_fit
from tests.waiting import turns


class TestCapacity:
    async def extender(self, answer: Callable[[dict[str, Any]], web.Response]) -> tuple[web.AppRunner, str]:
        app = web.Application()

        async def fit(request: web.Request) -> web.Response:
            return answer(await request.json())

        app.router.add_post("/v1/fit", fit)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def test_the_pod_itself_is_asked_about(self, bench: Bench) -> None:
        asked: list[dict[str, Any]] = []

        def answer(question: dict[str, Any]) -> web.Response:
            asked.append(question)
            return web.json_response({"fits": 1, "nodes": {"n": 1}, "reasons": {"no free time slice": 3}})

        runner, url = await self.extender(answer)
        bench.workload(replicas=1)
        bench.loads = dict.fromkeys(bench.loads, 40.0)
        bench.object()
        await bench.start(extender_url=url)
        await bench.tick()
        assert bench.replicas() == 2
        assert asked[0]["limit"] == 3
        assert asked[0]["pod"]["spec"]["containers"][0]["name"] == "server"
        assert bench.api.get(IA, "llm")["status"]["unmetReplicas"] == 2
        assert "no free time slice on 3 nodes" in bench.condition("CapacityLimited")["message"]
        await runner.cleanup()

    async def test_a_replica_that_is_a_group_needs_room_for_all_its_pods(self) -> None:
        asked: list[dict[str, Any]] = []

        def answer(question: dict[str, Any]) -> web.Response:
            asked.append(question)
            return web.json_response({"fits": 11, "nodes": {"n": 11}, "reasons": {"no free card": 3}})

        runner, url = await self.extender(answer)
        client = FitClient(url, 1.0)
        template = b'{"metadata": null, "spec": {"containers": [{"name": "worker"}]}}'
        capacity, complaint = await client.ask(template, "ns", 3, 4)
        assert (asked[0]["limit"], asked[0]["pod"]["metadata"]) == (12, {"namespace": "ns"})
        assert (capacity, complaint) == (Capacity(2, "no free card on 3 nodes"), "")
        await client.close()
        await runner.cleanup()

    async def test_the_pods_of_a_replica_that_must_be_near_each_other_are_asked_about_as_a_group(self) -> None:
        asked: list[dict[str, Any]] = []

        def answer(question: dict[str, Any]) -> web.Response:
            asked.append(question["pod"]["metadata"]["annotations"])
            return web.json_response({"fits": 2, "nodes": {"n": 3}, "groups": 1, "group_size": 2})

        runner, url = await self.extender(answer)
        client = FitClient(url, 1.0)
        near = {"headroom.dev/group-topology": "rack"}
        template = json.dumps({"metadata": {"annotations": near}, "spec": {}}).encode()
        assert await client.ask(template, "ns", 3, 2) == (Capacity(1, ""), "")
        await client.ask(template, "ns", 3, 1)
        group = {"headroom.dev/group": "headroom-one-replica-more", "headroom.dev/group-size": "2"}
        assert asked == [near | group, near], "a replica of one pod is near itself"
        await client.close()
        await runner.cleanup()

    async def test_a_crowd_of_questions_is_asked_a_few_at_a_time(self) -> None:
        under_way, most = 0, 0

        async def fit(_: web.Request) -> web.Response:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await turns()
            under_way -= 1
            return web.json_response({"fits": 1})

        async with serving_fit(fit) as url:
            client = FitClient(url, 5.0)
            answers = await asyncio.gather(*(client.ask(b"{}", "ns", 1) for _ in range(100)))
            await client.close()
        assert {capacity.fits if capacity else None for capacity, _ in answers} == {1}
        assert most <= 8

    async def test_a_scheduler_that_hangs_costs_its_time_once(self) -> None:
        asked = 0

        async def fit(_: web.Request) -> web.Response:
            nonlocal asked
            asked += 1
            await asyncio.Event().wait()
            return web.json_response({"fits": 1})

        async with serving_fit(fit) as url:
            client = FitClient(url, 1.0)
            answers = await asyncio.gather(*(client.ask(b"{}", "ns", 1) for _ in range(100)))
            await client.close()
        assert set(answers) == {(None, "the scheduler does not answer in time")}
        assert asked < 50

    @pytest.mark.parametrize("status", [400, 503])
    async def test_an_extender_that_does_not_know_limits_nothing(self, bench: Bench, status: int) -> None:
        runner, url = await self.extender(lambda _: web.Response(status=status, text="not ready"))
        bench.workload(replicas=1)
        bench.loads = dict.fromkeys(bench.loads, 40.0)
        bench.object()
        await bench.start(extender_url=url)
        await bench.tick()
        assert bench.replicas() == 4
        assert str(status) in bench.condition("CapacityLimited")["message"]
        await runner.cleanup()

    async def test_an_extender_that_is_gone_limits_nothing(self, bench: Bench) -> None:
        bench.workload(replicas=1)
        bench.loads = dict.fromkeys(bench.loads, 40.0)
        bench.object()
        await bench.start(extender_url="http://127.0.0.1:1")
        await bench.tick()
        assert bench.replicas() == 4

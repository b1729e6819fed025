"""Several extenders on one cluster: one decides, the one whose kube-scheduler asks, and no card is given twice."""

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headroom.daemon.settings import SettingsError
from headroom.kube.aio import connect
from scheduler.leadership import FencedClient
from scheduler.settings import SchedulerSettings, check
from scheduler.verbs import protocol
from scheduler.verbs.bind import Binder, BindError
from simulations.kwok.process import free_port
from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import GIB, NODES, PODS, Running, extender, node, pod

LEASE = "/apis/coordination.k8s.io/v1/leases"
QUICK: dict[str, Any] = {
    "lease_namespace": "headroom-system",
    "lease_seconds": 1.5,
    "bind_timeout_seconds": 0.5,
    "preemption": False,
    "naming_ahead_backlog": 4,
}


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        server.put(NODES, node("gpu", 80))
        yield server


@contextlib.asynccontextmanager
async def two(api: ApiServer, tmp_path: Path, **settings: Any) -> AsyncIterator[list[Running]]:
    """Two extenders, the first of which decides; on distinct ports, as on distinct hosts."""
    async with contextlib.AsyncExitStack() as stack:
        running = []
        for _ in range(2):
            running.append(
                await stack.enter_async_context(extender(api, tmp_path, port=free_port(), **QUICK, **settings))
            )
            await running[0].until(lambda: running[0].daemon.leadership.deciding)
        yield running


def decide(*extenders: Running) -> list[bool]:
    return [each.daemon.leadership.deciding for each in extenders]


def held(running: Running) -> int:
    return int(running.daemon.state.fleet.held_mib.sum())


async def filter_until_answered(running: Running, body: dict[str, Any]) -> dict[str, Any]:
    """As kube-scheduler does: what fails is tried again."""
    for _ in range(20):
        status, answer = await running.post("/filter", {"Pod": body, "NodeNames": ["gpu"]})
        if status == 200:
            return answer
    raise AssertionError(answer)


async def test_the_standby_is_ready_with_the_same_ledger_and_says_who_decides(api: ApiServer, tmp_path: Path) -> None:
    async with two(api, tmp_path) as (first, second):
        await first.place(await first.create(pod("llm", vram="50Gi")))
        await second.caught_up()
        assert held(second) == 50 * GIB
        assert decide(first, second) == [True, False]
        assert (await second.get("/readyz"))[0] == 200
        status, answer = await second.get("/v1/explain?pod=default/llm")
        assert status == 404  # the decision was the other's
        assert "stands by: lease headroom-system/headroom-extender is held by" in answer
        assert [await each.metric("headroom_extender_deciding") for each in (first, second)] == [1, 0]


async def test_the_one_that_is_asked_takes_over_from_one_that_is_not_and_gives_no_card_twice(
    api: ApiServer, tmp_path: Path
) -> None:
    async with two(api, tmp_path) as (first, second):
        reserved = await first.create(pod("reserved", vram="50Gi"))
        await first.place(await first.create(pod("bound", vram="20Gi")))
        assert (await first.filter(reserved))["NodeNames"] == ["gpu"]
        # From here on it is the second one's kube-scheduler that leads.
        late = await second.create(pod("late", vram="70Gi"))
        assert (await filter_until_answered(second, late))["NodeNames"] == []
        assert (await filter_until_answered(second, reserved))["NodeNames"] == ["gpu"]
        assert decide(first, second) == [False, True]
        assert await second.bind(reserved, "gpu") == {}
        await first.caught_up()
        assert held(first) == held(second) == 70 * GIB
        assert first.daemon.state.ledger.reservations() == []


async def test_a_card_that_both_have_promised_goes_to_the_one_that_binds_first(api: ApiServer, tmp_path: Path) -> None:
    async with two(api, tmp_path) as (first, second):
        mine = await first.create(pod("mine", vram="50Gi"))
        assert (await first.filter(mine))["NodeNames"] == ["gpu"]
        other = await second.create(pod("other", vram="50Gi"))
        assert (await filter_until_answered(second, other))["NodeNames"] == ["gpu"]
        assert await first.bind(mine, "gpu") == {}  # it had to take over again before it could
        assert "no card with 51200 MiB free" in (await second.bind(other, "gpu"))["Error"]
        for each in (first, second):
            await each.caught_up()
            assert held(each) == 50 * GIB
            assert each.daemon.state.breaches() == []


async def test_a_successor_waits_out_the_lease_of_one_that_died_and_knows_what_it_bound(
    api: ApiServer, tmp_path: Path
) -> None:
    async with two(api, tmp_path) as (first, second):
        bound = await first.create(pod("bound", vram="50Gi"))
        await first.filter(bound)
        flow = api.hold_watches()
        assert await first.bind(bound, "gpu") == {}
        assert held(second) == 0  # its watch lags behind
        await first.kill()
        assert (await filter_until_answered(second, pod_known(api, "late", "50Gi")))["NodeNames"] == []
        assert held(second) == 50 * GIB
        flow.set()


def pod_known(api: ApiServer, name: str, vram: str) -> dict[str, Any]:
    return api.put(PODS, pod(name, vram=vram))


async def test_who_comes_back_after_another_reigned_reads_what_was_bound_meanwhile(
    api: ApiServer, tmp_path: Path
) -> None:
    """s06: cut off while the other took the lease, bound a pod and gave the lease up, the first must not take up its old promises."""
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
    front = await api.front()
    async with extender(api, tmp_path / "a", front=front, port=free_port(), **QUICK) as first:
        promised = await first.create(pod("promised", vram="50Gi"))
        assert (await filter_until_answered(first, promised))["NodeNames"] == ["gpu"]
        front.down = True
        async with extender(api, tmp_path / "b", port=free_port(), **QUICK) as second:
            bound = await second.create(pod("bound", vram="50Gi"))
            assert (await filter_until_answered(second, bound))["NodeNames"] == ["gpu"]
            flow = api.hold_watches()
            assert await second.bind(bound, "gpu") == {}
        (lease,) = api.all(LEASE)
        assert lease["spec"]["holderIdentity"] == ""
        relists = first.daemon.pods.relists
        front.down = False
        await first.until(lambda: first.daemon.leadership.deciding)
        assert first.daemon.pods.relists > relists
        assert first.daemon.leadership.term.endswith("/2")
        assert held(first) == 50 * GIB
        assert first.daemon.state.ledger.reservations() == []
        assert (await first.filter(promised))["NodeNames"] == []
        flow.set()


async def test_a_lease_that_was_given_up_is_taken_at_once_and_the_same_place_takes_its_own_back(
    api: ApiServer, tmp_path: Path
) -> None:
    slow: dict[str, Any] = QUICK | {"lease_seconds": 600.0}
    async with extender(api, tmp_path, port=free_port(), **slow) as first:
        await first.until(lambda: first.daemon.leadership.deciding)
    place = free_port()
    async with extender(api, tmp_path, port=place, **slow) as second:
        await second.until(lambda: second.daemon.leadership.deciding)
        await second.kill()
    async with extender(api, tmp_path, port=place, **slow) as again:
        await again.until(lambda: again.daemon.leadership.deciding)
        assert len(api.all(LEASE)) == 1


async def test_only_the_one_that_decides_names_ahead(api: ApiServer, tmp_path: Path) -> None:
    async with two(api, tmp_path) as (first, second):
        for at in range(4):
            api.put(PODS, pod(f"p{at}", vram="10Gi"))
        await first.until(lambda: all(each["status"].get("nominatedNodeName") for each in api.all(PODS)))
        await second.caught_up()
        assert len(api.asked("PATCH", "/status$")) == 4
        assert second.daemon.state.ledger.reservations() == []


async def test_while_the_lease_cannot_be_renewed_calls_wait_and_then_fail_with_the_reason(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.leadership.PATIENCE_SECONDS", 0.3)
    async with extender(api, tmp_path, port=free_port(), **QUICK) as running:
        wanted = await running.create(pod("llm", vram="50Gi"))
        await running.until(lambda: running.daemon.leadership.deciding)
        api.fail("GET", "/leases/", status=500, times=10_000)
        await running.until(lambda: not running.daemon.leadership.deciding)
        status, answer = await running.post("/filter", {"Pod": wanted, "NodeNames": ["gpu"]})
        assert status == 503
        assert "lease headroom-system/headroom-extender cannot be had" in answer["Error"]
        assert "500 scripted" in answer["Error"]
        assert await running.metric("headroom_extender_requests_total", verb="filter", result="standby") == 1


async def test_a_binding_is_not_made_when_the_lease_ran_out_since_it_was_asked_for(
    api: ApiServer, tmp_path: Path
) -> None:
    async with extender(api, tmp_path, port=free_port(), **QUICK) as running:
        wanted = await running.create(pod("llm", vram="10Gi"))
        await running.filter(wanted)
        daemon, meta = running.daemon, wanted["metadata"]
        kube = await connect(str(tmp_path / "kubeconfig"))
        fenced = FencedClient(kube, lambda: False)
        binder = Binder(
            daemon.state,
            fenced,
            daemon.settings,
            daemon.decisions,
            daemon.effects,
            daemon.seating,
            term=lambda: "t",
            monotonic=time.monotonic,
        )
        with pytest.raises(BindError, match="another extender decides"):
            await binder.bind(
                protocol.BindingArgs(pod_name="llm", pod_namespace="default", pod_uid=meta["uid"], node="gpu")
            )
        await kube.close()
        assert api.asked("POST", "/binding$") == []
        assert held(running) == 0


def test_a_lease_too_short_for_a_binding_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"lease_seconds: 10 s is below three times bind_timeout_seconds \(4 s\)"):
        check(SchedulerSettings(lease_namespace="x", lease_seconds=10.0))

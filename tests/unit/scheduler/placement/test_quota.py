"""What the pods of a namespace may hold together, through the running extender and in plain figures."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headroom import wire
from scheduler.placement.quota import Quota, quota_of
from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NAMESPACES, NODES, PODS, Running, extender, node, pod
from tests.waiting import pass_time_until

WAKE = "headroom.dev/vram-freed"
VRAM_WORDS = "quota of namespace default: headroom.dev/max-vram 40Gi"
CARDS_WORDS = "quota of namespace default: headroom.dev/max-cards 2"


def namespace(name: str = "default", **limits: str) -> dict[str, Any]:
    annotations = {f"headroom.dev/{key.replace('_', '-')}": text for key, text in limits.items()}
    return {"metadata": {"name": name, "annotations": annotations}}


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        server.put(NODES, node("big", 80, 80, 80, 80))
        server.put(NODES, node("sliced", 80, slices=4))
        yield server


async def refusal(running: Running, body: dict[str, Any]) -> str:
    """The one reason that all nodes give; empty when the pod is given a node."""
    answer = await running.filter(body)
    if answer["NodeNames"]:
        return ""
    (reason,) = set(answer["FailedAndUnresolvableNodes"].values())
    return str(reason)


def wakes(api: ApiServer) -> int:
    return len([ask for ask in api.asked("PATCH", "^/api/v1/nodes/") if WAKE in ask.body["metadata"]["annotations"]])


async def explained(running: Running, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await running.get(f"/v1/explain?pod=default/{name}"))[1])
    return found


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, None),
        ({"max_vram": "80Gi"}, Quota("default", 81920, None, "80Gi")),
        ({"max_cards": "4"}, Quota("default", None, 4)),
        ({"max_vram": "1.5Ti", "max_cards": "0"}, Quota("default", 1572864, 0, "1.5Ti")),
        ({"max_vram": "0"}, Quota("default", 0, None, "0")),
    ],
)
def test_limits_of_a_namespace(annotations: dict[str, str], expected: Quota | None) -> None:
    assert quota_of(wire.NAMESPACE.decode(json.dumps(namespace(**annotations)).encode())) == expected


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({"max_vram": "lots"}, "headroom.dev/max-vram: 'lots': 'lots' is not a quantity"),
        ({"max_vram": "-1Gi"}, "headroom.dev/max-vram: '-1Gi': below zero"),
        ({"max_vram": "80"}, "headroom.dev/max-vram: '80': that is in bytes, and less than 64 MiB; write the unit"),
        ({"max_cards": "two"}, "headroom.dev/max-cards: 'two': not a number of cards"),
        ({"max_cards": "-1", "max_vram": "8Gi"}, "headroom.dev/max-cards: '-1'"),
        ({"max_cards": "1.5"}, "headroom.dev/max-cards: '1.5'"),
        ({"max_cards": "٣"}, "headroom.dev/max-cards: '٣': not a number of cards"),
    ],
)
async def test_a_quota_that_cannot_be_read_is_told_and_nothing_more_is_placed(
    api: ApiServer, tmp_path: Path, annotations: dict[str, str], words: str
) -> None:
    api.put(NAMESPACES, namespace(**annotations))
    async with extender(api, tmp_path) as running:
        waits = await running.create(pod("waits", vram="1Gi"))
        assert (await refusal(running, waits)).startswith(f"namespace default: {words}")
        assert await running.metric("headroom_namespaces_not_understood") == 1
        api.put(NAMESPACES, namespace())
        await running.until(lambda: wakes(api) == 1)
        assert await refusal(running, waits) == ""


@pytest.mark.parametrize(
    ("limits", "vram_gib", "cards"),
    [
        pytest.param({"headroom.dev/vram": "10Gi", "headroom.dev/gpu": "4"}, 40, 4, id="K02 HAMi#893: a size on each of four cards"),
        pytest.param({"headroom.dev/vram": "10Gi"}, 10, 1, id="memory"),
        pytest.param({"nvidia.com/gpumem": "10240"}, 10, 1, id="HAMi's MiB"),
        pytest.param({"aliyun.com/gpu-mem": "10"}, 10, 1, id="gpushare's GiB"),
        pytest.param({"nvidia.com/gpumem-percentage": "25"}, 20, 1, id="HAMi's percent of a card of 80 GiB"),
        pytest.param({"headroom.dev/gpu-milli": "500"}, 40, 1, id="thousandths"),
        pytest.param({"headroom.dev/gpu": "2"}, 160, 2, id="whole cards of Headroom's choice"),
        pytest.param({"nvidia.com/gpu": "2", "nvidia.com/gpumem": "10240"}, 20, 2, id="HAMi's standard manifest"),
    ],
)  # fmt: skip
async def test_every_spelling_counts_by_what_it_holds(
    api: ApiServer, tmp_path: Path, limits: dict[str, str], vram_gib: int, cards: int
) -> None:
    api.put(NAMESPACES, namespace(max_vram="1000Gi", max_cards="100"))
    async with extender(api, tmp_path) as running:
        body = await running.create(pod("holder", limits=limits))
        await running.place(body)
        held = {
            name: await running.metric(f"headroom_namespace_{name}", namespace="default", state="held")
            for name in ("vram_bytes", "cards")
        }
        assert held == {"vram_bytes": vram_gib * 2**30, "cards": cards}
        assert await running.metric("headroom_namespace_vram_bytes", namespace="default", state="max") == 1000 * 2**30
        # One card less than the pod has, or a MiB less, and its twin is refused.
        twin = await running.create(pod("twin", limits=limits))
        for quota in ({"max_cards": str(2 * cards - 1)}, {"max_vram": f"{2 * vram_gib * 1024 - 1}Mi"}):
            api.put(NAMESPACES, namespace(**quota))
            await running.caught_up()
            answer = await running.filter(twin, "big")
            assert answer["FailedAndUnresolvableNodes"]["big"].startswith(
                "quota of namespace default: headroom.dev/max-"
            )


async def test_plain_devices_of_the_plugin_count_too(api: ApiServer, tmp_path: Path) -> None:
    """A slice is a card to `max-cards`, and its part of the card to `max-vram`; pods of other schedulers count as well."""
    api.put(NAMESPACES, namespace(max_vram="40Gi"))
    foreign = pod("foreign", gpus=1, nodeName="sliced", schedulerName="default-scheduler")
    api.put(PODS, foreign | {"status": {"phase": "Running"}})
    async with extender(api, tmp_path) as running:
        second = await running.create(pod("second", gpus=1))
        assert (await running.filter(second, "big", "sliced"))["NodeNames"] == ["sliced"], "80 GiB are too many"
        third = await running.create(pod("third", gpus=1))
        reasons = (await running.filter(third, "big", "sliced"))["FailedAndUnresolvableNodes"]
        assert reasons == {"big": VRAM_WORDS, "sliced": VRAM_WORDS}


async def test_refused_in_stable_words_until_something_ends(api: ApiServer, tmp_path: Path) -> None:
    api.put(NAMESPACES, namespace(max_vram="40Gi"))
    async with extender(api, tmp_path, reservation_seconds=60.0, sweep_seconds=1.0, naming_ahead=False) as running:
        first = await running.create(pod("first", vram="30Gi"))
        await running.place(first)
        waits = await running.create(pod("waits", vram="20Gi"))
        assert await refusal(running, waits) == VRAM_WORDS
        small = await running.create(pod("small", vram="10Gi"))
        assert await refusal(running, small) == "", "what is left is given out; a reservation counts"
        assert await refusal(running, waits) == VRAM_WORDS
        found = await explained(running, "waits")
        assert found["quota"] == {"namespace": "default", "refuses": VRAM_WORDS, "vram": "40.0 GiB of 40.0 GiB held"}
        assert found["reasons"] == {VRAM_WORDS: 2}
        other = pod("other", vram="60Gi")
        other["metadata"]["namespace"] = "elsewhere"
        assert await refusal(running, await running.create(other)) == "", "another namespace"
        await running.in_time(lambda: running.daemon.state.holding(small["metadata"]["uid"]) is None)
        assert await refusal(running, waits) == VRAM_WORDS, "10 GiB expired, 20 are asked for"
        api.remove(PODS, "first")
        await running.caught_up()
        assert await refusal(running, waits) == ""


async def test_an_expired_reservation_in_the_namespace_wakes_who_waits_for_its_quota(
    api: ApiServer, tmp_path: Path
) -> None:
    api.put(NAMESPACES, namespace(max_cards="2"))
    async with extender(api, tmp_path, reservation_seconds=60.0, sweep_seconds=1.0, naming_ahead=False) as running:
        holder = await running.create(pod("holder", limits={"headroom.dev/gpu": "2"}))
        await running.filter(holder)
        waits = await running.create(pod("waits", vram="1Gi"))
        assert await refusal(running, waits) == CARDS_WORDS
        # Room that comes free elsewhere is of no use to it, and wakes nobody.
        stranger = pod("stranger", vram="1Gi")
        stranger["metadata"]["namespace"] = "elsewhere"
        await running.filter(await running.create(stranger))
        api.remove(PODS, "stranger", "elsewhere")
        await running.caught_up()
        assert wakes(api) == 0
        await running.in_time(lambda: wakes(api) == 1)
        assert await refusal(running, waits) == ""


async def test_a_raised_quota_wakes_and_a_lowered_one_takes_nothing_away(api: ApiServer, tmp_path: Path) -> None:
    api.put(NAMESPACES, namespace(max_vram="40Gi"))
    async with extender(api, tmp_path) as running:
        first = await running.create(pod("first", vram="40Gi"))
        (chosen,) = (await running.filter(first))["NodeNames"]
        api.put(NAMESPACES, namespace(max_vram="10Gi"))
        await running.caught_up()
        assert await running.bind(first, chosen) == {}, "what was promised stays"
        waits = await running.create(pod("waits", vram="5Gi"))
        assert await refusal(running, waits) == "quota of namespace default: headroom.dev/max-vram 10Gi"
        assert api.asked("POST", "/eviction$") == []
        api.put(NAMESPACES, namespace(max_vram="45Gi"))
        await running.until(lambda: wakes(api) == 1)
        assert await refusal(running, waits) == ""
        api.remove(NAMESPACES, "default")
        await running.caught_up()
        assert await refusal(running, await running.create(pod("free", vram="70Gi"))) == ""


async def test_nobody_is_evicted_for_a_pod_that_its_quota_refuses(api: ApiServer, tmp_path: Path) -> None:
    api.put(NAMESPACES, namespace(max_cards="1"))
    async with extender(api, tmp_path) as running:
        low = pod("low", vram="10Gi", priority=0)
        low["metadata"]["namespace"] = "elsewhere"
        await running.place(await running.create(low))
        await running.place(await running.create(pod("mine", vram="1Gi", priority=0)))
        critical = await running.create(pod("critical", vram="10Gi", priority=1000))
        assert await refusal(running, critical) == "quota of namespace default: headroom.dev/max-cards 1"
        await running.calm()
        assert api.asked("POST", "/eviction$") == []


async def test_a_binding_that_no_filter_call_came_before_keeps_the_quota(api: ApiServer, tmp_path: Path) -> None:
    api.put(NAMESPACES, namespace(max_vram="40Gi"))
    async with extender(api, tmp_path) as running:
        for name, error in (("fits", ""), ("does-not", VRAM_WORDS)):
            body = await running.create(pod(name, vram="30Gi"))
            answer = await running.bind(body, "big")
            assert error in answer.get("Error", "")
            assert bool(answer) == bool(error)


async def test_a_backlog_is_named_ahead_only_as_far_as_the_quota_goes(api: ApiServer, tmp_path: Path) -> None:
    api.put(NAMESPACES, namespace(max_vram="40Gi"))
    async with extender(api, tmp_path, naming_ahead_backlog=2) as running:
        for number in range(8):
            api.put(PODS, pod(f"many-{number}", vram="10Gi"))
        named = "/status$"
        await running.until(lambda: len(api.asked("PATCH", named)) == 4)
        await running.calm()
        assert len(api.asked("PATCH", named)) == 4
        assert sum(held.placement.share_mib[0] for held in running.daemon.state.ledger.reservations()) == 40960


@pytest.mark.parametrize(
    ("quota", "limits", "fits", "words"),
    [
        ({"max_vram": "40Gi"}, {"headroom.dev/vram": "15Gi"}, 2, VRAM_WORDS),
        ({"max_cards": "2"}, {"headroom.dev/vram": "1Gi"}, 2, CARDS_WORDS),
        ({"max_vram": "100Gi"}, {"nvidia.com/gpu": "1"}, 4, "quota of namespace default: headroom.dev/max-vram 100Gi"),
        ({"max_vram": "lots"}, {"headroom.dev/vram": "1Gi"}, 0, "namespace default: headroom.dev/max-vram"),
        ({}, {"headroom.dev/vram": "70Gi"}, 5, ""),
    ],
)
async def test_fit_says_how_many_more_the_quota_allows(
    api: ApiServer, tmp_path: Path, quota: dict[str, str], limits: dict[str, str], fits: int, words: str
) -> None:
    """The autoscaler asks for no more than that."""
    api.put(NAMESPACES, namespace(**quota))
    async with extender(api, tmp_path) as running:
        status, answer = await running.post("/v1/fit", {"pod": pod("template", limits=limits), "limit": 50})
        assert (status, answer["fits"]) == (200, fits), answer
        assert any(reason.startswith(words) for reason in answer["reasons"]) or not words, answer


async def test_without_the_right_to_see_namespaces_it_goes_on_and_says_so(api: ApiServer, tmp_path: Path) -> None:
    api.fail("GET", "^/api/v1/namespaces$", status=403, message="forbidden", times=1000)
    async with extender(api, tmp_path, wait_ready=False) as running:
        await pass_time_until(lambda: running.daemon.health.ready, seconds=60)
        assert "the right to list namespaces is missing: quotas are not kept" in (await running.get("/readyz"))[1]
        assert await refusal(running, await running.create(pod("any", vram="1Gi"))) == ""


async def test_an_api_server_that_does_not_tell_of_namespaces_yet_is_waited_for(api: ApiServer, tmp_path: Path) -> None:
    """Whoever decided without the quotas would give away more than they allow."""
    api.put(NAMESPACES, namespace(max_vram="40Gi"))
    api.fail("GET", "^/api/v1/namespaces$", status=503, message="later", times=4)
    async with extender(api, tmp_path, wait_ready=False) as running:
        await pass_time_until(lambda: running.daemon.health.ready, seconds=60)
        assert await refusal(running, await running.create(pod("any", vram="50Gi"))) == VRAM_WORDS


@pytest.mark.parametrize("away", ["gone", "unreadable"])
async def test_a_node_that_is_away_makes_no_room_in_the_quota(api: ApiServer, tmp_path: Path, away: str) -> None:
    api.put(NAMESPACES, namespace(max_vram="40Gi"))
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("first", vram="30Gi")), "big")
        if away == "gone":
            api.remove(NODES, "big")
        else:
            body = node("big", 80)
            body["metadata"]["annotations"]["headroom.dev/cards"] = "[oops"
            api.put(NODES, body)
        await running.caught_up()
        assert await refusal(running, await running.create(pod("second", vram="20Gi"))) == VRAM_WORDS

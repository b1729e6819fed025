"""The pages for people and other programs: fit, explain, metrics, snapshot."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NAMESPACES, NODES, PODS, Running, extender, node, pod


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with ApiServer() as api:
        api.put(NODES, node("a", 80, 80))
        api.put(NODES, node("b", 40))
        api.put(NODES, node("t", 80, taints=[{"key": "dedicated", "value": "x", "effect": "NoSchedule"}]))
        async with extender(api, tmp_path, preemption=False, naming_ahead=False) as ready:
            yield ready


@pytest.mark.parametrize(
    ("asked", "limit", "fits", "reasons"),
    [
        pytest.param(pod("p", vram="30Gi"), 100, {"a": 4, "b": 1}, {"no card with 30720 MiB free": 2}, id="by memory"),
        pytest.param(pod("p", vram="30Gi"), 2, None, None, id="up to the limit"),
        pytest.param(pod("p", vram="60Gi"), 100, {"a": 2}, {"no card with 61440 MiB free": 2}, id="large ones"),
        pytest.param(pod("p", vram="90Gi"), 100, {}, {"no card with 92160 MiB free": 2}, id="none"),
        pytest.param(
            pod("p", vram="30Gi", tolerations=[{"operator": "Exists"}]),
            100,
            {"a": 4, "b": 1, "t": 2},
            {"no card with 30720 MiB free": 3},
            id="with the taint tolerated",
        ),
    ],
)
async def test_fit_counts_how_many_more_pods_and_why_no_more(
    running: Running, asked: Any, limit: int, fits: dict[str, int] | None, reasons: dict[str, int]
) -> None:
    before = running.daemon.state.ledger.dump()
    template = {"metadata": {"labels": {}}, "spec": asked["spec"]}
    status, answer = await running.post("/v1/fit", {"pod": template, "limit": limit})
    assert status == 200
    if fits is None:
        assert answer["fits"] == limit
    else:
        assert answer["nodes"] == fits
        assert answer["fits"] == sum(fits.values())
        taint = {} if "t" in fits else {"node selector, affinity or taint": 1}
        assert answer["reasons"] == reasons | taint
    assert running.daemon.state.ledger.dump() == before


async def test_fit_counts_no_more_pods_than_the_node_takes(tmp_path: Path) -> None:
    """s11b: 110 pods are the most of a node, whatever its cards could hold."""
    async with ApiServer() as api:
        full = node("full", 80)
        full["status"]["allocatable"]["pods"] = "3"
        api.put(NODES, full)
        for name in ("one", "two"):
            api.put(PODS, pod(name, nodeName="full") | {"status": {"phase": "Running"}})
        async with extender(api, tmp_path) as ready:
            template = pod("p", vram="1Gi")
            _, answer = await ready.post("/v1/fit", {"pod": template, "limit": 50})
            assert (answer["fits"], answer["reasons"]) == (1, {"the node takes no more pods": 1})
            await ready.place(await ready.create(template))
            assert (await ready.post("/v1/fit", {"pod": pod("q", vram="1Gi")}))[1]["fits"] == 0


@pytest.mark.parametrize(("limit", "at_least"), [(3, True), (4, None), (9, None)])
async def test_fit_tells_a_limit_from_an_answer(tmp_path: Path, limit: int, at_least: bool | None) -> None:
    """s11b: four fit; whoever asked for three is told that these are not all."""
    async with ApiServer() as api:
        api.put(NODES, node("n", 80))
        async with extender(api, tmp_path) as ready:
            _, answer = await ready.post("/v1/fit", {"pod": pod("p", vram="20Gi"), "limit": limit})
            assert (answer["fits"], answer.get("at_least")) == (min(limit, 4), at_least)


def apart(**labels: str) -> dict[str, Any]:
    """The affinity of pods that share no host with pods of these labels."""
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


async def test_fit_puts_pods_that_keep_apart_on_a_host_each_and_off_those_that_are_taken(running: Running) -> None:
    running.api.put(NODES, node("c", 80, 80))
    await running.place(await running.create(pod("first", vram="10Gi", labels={"app": "llm"})), "a")
    await running.place(await running.create(pod("other", vram="10Gi", labels={"app": "else"})), "b")
    template = {
        "metadata": {"labels": {"app": "llm"}},
        "spec": pod("p", vram="10Gi", affinity=apart(app="llm"))["spec"],
    }
    _, answer = await running.post("/v1/fit", {"pod": template})
    assert answer == {
        "fits": 2,
        "nodes": {"b": 1, "c": 1},
        "reasons": {"pod anti-affinity": 3, "node selector, affinity or taint": 1},
    }
    # Apart from others, but not from its own kind.
    template["spec"]["affinity"] = apart(app="else")
    _, answer = await running.post("/v1/fit", {"pod": template, "limit": 1000})
    assert answer["nodes"].keys() == {"a", "c"}
    assert answer["fits"] > 2
    assert answer["reasons"]["pod anti-affinity"] == 1


async def test_fit_gives_pods_that_wait_already_their_places_first(running: Running) -> None:
    """s11b: two whole cards, of which one is waited for."""
    template = pod("p", vram="60Gi", labels={"app": "llm"})
    assert (await running.post("/v1/fit", {"pod": template}))[1]["fits"] == 2
    await running.create(pod("other", vram="70Gi"))
    await running.create(pod("tainted", vram="70Gi", nodeSelector={"nobody": "has"}))
    await running.create(pod("unimportant", vram="70Gi", priority=-5))
    _, answer = await running.post("/v1/fit", {"pod": template})
    assert (answer["fits"], answer["waiting_first"], answer.get("not_judged")) == (1, 1, None)
    # Refused ones wait, too, and each kind is placed as far as there is room.
    for name in ("own-1", "own-2"):
        await running.filter(await running.create(pod(name, vram="60Gi", labels={"app": "llm", "hash": "x"})), "b")
    _, answer = await running.post("/v1/fit", {"pod": template})
    assert (answer["fits"], answer["waiting_first"]) == (0, 2)
    # Who counts his own waiting replicas himself asks for the room that is there for all of them.
    _, answer = await running.post("/v1/fit", {"pod": template, "ownWaiting": True})
    assert (answer["fits"], answer["waiting_first"]) == (1, 1)
    # A more important pod is before those.
    important = pod("p", vram="60Gi", priority=10)
    _, answer = await running.post("/v1/fit", {"pod": important})
    assert (answer["fits"], answer.get("waiting_first")) == (2, None)


async def test_fit_names_waiting_pods_whose_place_only_kube_scheduler_can_tell(running: Running) -> None:
    await running.create(pod("waits", vram="70Gi", affinity=apart(app="x")))
    _, answer = await running.post("/v1/fit", {"pod": pod("p", vram="60Gi")})
    assert (answer["fits"], answer["not_judged"]) == (
        1, ["rules of 1 waiting pods that only kube-scheduler can judge"],
    )  # fmt: skip


async def test_fit_minds_a_quota_that_waiting_pods_use_up_and_one_that_keeps_them_waiting(running: Running) -> None:
    limits = {"metadata": {"name": "default", "annotations": {"headroom.dev/max-vram": "50Gi"}}}
    running.api.put(NAMESPACES, limits)
    await running.create(pod("too-large", vram="70Gi"))
    await running.create(pod("waits", vram="30Gi"))
    _, answer = await running.post("/v1/fit", {"pod": pod("p", vram="10Gi")})
    assert (answer["fits"], answer["waiting_first"]) == (2, 1)


async def test_fit_seats_waiting_pods_within_the_quota_of_whole_cards(tmp_path: Path) -> None:
    """s11: the second whole card is more than the namespace may have, so it keeps nobody else waiting."""
    async with ApiServer() as api:
        api.put(NODES, node("n", 80, 80))
        limits = {"metadata": {"name": "limited", "annotations": {"headroom.dev/max-vram": "110Gi"}}}
        api.put(NAMESPACES, limits)
        async with extender(api, tmp_path) as ready:
            train = pod("train", gpus=1)
            train["metadata"]["namespace"] = "limited"
            await ready.create(train | {"metadata": train["metadata"] | {"name": "first"}})
            await ready.create(train | {"metadata": train["metadata"] | {"name": "second"}})
            template = pod("p", vram="20Gi")
            template["metadata"]["namespace"] = "limited"
            _, answer = await ready.post("/v1/fit", {"pod": template})
            assert (answer["fits"], answer["waiting_first"]) == (1, 1)


async def test_fit_seats_waiting_pinned_pods_where_they_withhold_the_fewest_cards(tmp_path: Path) -> None:
    """s11, s41: as the filter will place it, the waiting pod goes to the node of one card, not onto one of three whole ones."""
    async with ApiServer() as api:
        for name, cards in (("many", 3), ("one", 1)):
            api.put(NODES, node(name, *[80] * cards))
        async with extender(api, tmp_path, policy="spread-vram", preemption=False, naming_ahead=False) as ready:
            await ready.place(await ready.create(pod("train", gpus=1)), "many")  # pods of the device plugin do come
            api.remove(PODS, "train")
            await ready.caught_up()
            waits = await ready.create(pod("waits", vram="10Gi"))
            _, answer = await ready.post("/v1/fit", {"pod": pod("p", gpus=1)})
            assert (answer["nodes"], answer["waiting_first"]) == ({"many": 3}, 1)
            assert await ready.place(waits) == "one"


@pytest.mark.parametrize(
    ("labels", "fits", "not_judged"),
    [
        pytest.param({"app": "q"}, {"b"}, None, id="s11b N19: the database keeps it off its host"),
        pytest.param({"app": "other"}, {"a", "b"}, None, id="it speaks of others"),
        pytest.param(
            {"app": "zonal"}, {"a", "b"}, ["running pods' anti-affinity other than by host and named namespaces"],
            id="by zone, which is not judged",
        ),
    ],
)  # fmt: skip
async def test_fit_minds_what_running_pods_say_by_anti_affinity(
    running: Running, labels: dict[str, str], fits: set[str], not_judged: list[str] | None
) -> None:
    affinity = apart(app="q")
    (term,) = affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    zonal = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "zonal"}}}
    affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = [term, zonal]
    database = pod("database", nodeName="a", affinity=affinity) | {"status": {"phase": "Running"}}
    running.api.put(PODS, database)
    elsewhere = pod("elsewhere", nodeName="b", affinity=apart(app="q")) | {"status": {"phase": "Running"}}
    elsewhere["metadata"]["namespace"] = "elsewhere"
    running.api.put(PODS, elsewhere)
    await running.caught_up()
    _, answer = await running.post("/v1/fit", {"pod": pod("p", vram="10Gi", labels=labels)})
    assert (set(answer["nodes"]), answer.get("not_judged")) == (fits, not_judged)
    running.api.remove(PODS, "database")
    await running.caught_up()
    _, answer = await running.post("/v1/fit", {"pod": pod("p", vram="10Gi", labels=labels)})
    assert (set(answer["nodes"]), answer.get("not_judged")) == ({"a", "b"}, None)


async def test_fit_names_what_only_kube_scheduler_can_judge(running: Running) -> None:
    rule = {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1}
    template = {"spec": pod("p", vram="10Gi", topologySpreadConstraints=[rule])["spec"]}
    _, answer = await running.post("/v1/fit", {"pod": template, "limit": 1})
    assert (answer["fits"], answer["not_judged"]) == (1, ["topology spread"])


async def test_fit_looks_into_no_namespace_that_cannot_be_one(running: Running) -> None:
    template = {"metadata": {"namespace": "../nodes"}, "spec": pod("p", vram="10Gi", affinity=apart(app="llm"))["spec"]}
    status, answer = await running.post("/v1/fit", {"pod": template})
    assert status == 400
    assert "'../nodes' is not the name of a namespace" in answer["Error"]


async def test_fit_says_when_the_pods_to_keep_apart_from_cannot_be_listed(running: Running) -> None:
    running.api.fail("GET", "/namespaces/default/pods$", status=500)
    template = {"spec": pod("p", vram="10Gi", affinity=apart(app="llm"))["spec"]}
    status, answer = await running.post("/v1/fit", {"pod": template})
    assert status == 503
    assert "cannot be listed" in answer["Error"]


async def test_a_long_fit_question_does_not_hold_filter_calls_up(running: Running) -> None:
    for number in range(40):
        running.api.put(NODES, node(f"many{number}", *[80] * 8))
    await running.caught_up()
    asked = asyncio.create_task(running.post("/v1/fit", {"pod": pod("p", vram="1Gi"), "limit": 2000}))
    wanted = running.api.put("/api/v1/pods", pod("llm", vram="10Gi"))
    answers = 0
    while not asked.done():
        await running.filter(wanted, "a")
        answers += 1
    assert (await asked)[1]["fits"] == 2000
    assert answers > 5


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param({"limit": 1}, "missing required field `pod`", id="no pod"),
        pytest.param({"pod": pod("p")}, "asks for no GPU", id="no GPU"),
        pytest.param({"pod": pod("p", vram="x")}, "not a quantity", id="no quantity"),
        pytest.param({"pod": pod("p", vram="1Gi"), "limit": "many"}, "limit", id="no number"),
    ],
)
async def test_a_fit_question_that_cannot_be_understood_is_a_400(
    running: Running, body: dict[str, Any], said: str
) -> None:
    status, answer = await running.post("/v1/fit", body)
    assert status == 400
    assert said in answer["Error"]


async def test_explain_tells_the_last_decision_with_live_figures(running: Running) -> None:
    wanted = await running.create(pod("llm", vram="70Gi"))
    for name in ("x", "y"):
        await running.place(await running.create(pod(name, vram="50Gi")), "a")
    await running.filter(wanted, "a", "b")
    explained = json.loads((await running.get("/v1/explain?pod=default/llm"))[1])
    assert explained["outcome"] == "refused"
    assert explained["reasons"] == {"no card with 71680 MiB free": 2}
    assert explained["request"]["vram_mib"] == 71680
    now = {entry["node"]: entry for entry in explained["nodes"]}
    assert now["a"]["now"] == "best of 2 cards has 30.0 GiB free, 0 of 2 devices handed out"
    assert now["b"]["fits"] is False
    placed = json.loads((await running.get("/v1/explain?pod=default/x"))[1])
    assert placed["outcome"] == "bound"
    assert placed["placement"]["node"] == "a"


async def explained(running: Running, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await running.get(f"/v1/explain?pod=default/{name}"))[1])
    return found


async def test_explain_says_what_keeps_a_pod_off_nodes_that_have_room(running: Running) -> None:
    """s10: a node with room on its cards that kube-scheduler does not offer to the pod is no room."""
    running.api.put(NODES, node("other", 80, labels={"pool": "other"}))
    running.api.put(NODES, node("cordoned", 80, labels={"pool": "mine"}, unschedulable=True))
    tight = node("tight", 80, labels={"pool": "mine"})
    tight["status"]["allocatable"]["cpu"] = "1"
    running.api.put(NODES, tight)
    running.api.put(NODES, node("small", 24, labels={"pool": "mine"}))
    body = pod("llm", vram="40Gi", nodeSelector={"pool": "mine"}, limits={"cpu": "2"})
    wanted = await running.create(body)
    assert (await running.filter(wanted, "small"))["NodeNames"] == []
    answer = await explained(running, "llm")
    assert [(each["node"], each["fits"], each["reason"]) for each in answer["nodes"]] == [
        ("tight", False, "not enough CPU or memory on the host"),
        ("small", False, "no card with 40960 MiB free"),
        ("a", False, "didn't match Pod's node affinity/selector"),
        ("t", False, "untolerated taint {dedicated: x}"),
        ("other", False, "didn't match Pod's node affinity/selector"),
        ("cordoned", False, "unschedulable (cordoned)"),
        ("b", False, "didn't match Pod's node affinity/selector"),
    ]
    assert answer["not_offered"] == {
        "didn't match Pod's node affinity/selector": 3, "untolerated taint {dedicated: x}": 1, "unschedulable (cordoned)": 1,
    }  # fmt: skip
    assert answer["not_judged"] == []


async def test_explain_shows_no_room_that_the_quota_forbids_and_names_what_it_cannot_judge(running: Running) -> None:
    namespace = {"metadata": {"name": "default", "annotations": {"headroom.dev/max-vram": "5Gi"}}}
    running.api.put(NAMESPACES, namespace)
    await running.create(pod("llm", vram="10Gi", affinity=apart(app="llm")))
    answer = await explained(running, "llm")
    assert {each["reason"] for each in answer["nodes"] if each["node"] != "t"} == {
        "quota of namespace default: headroom.dev/max-vram 5Gi"
    }
    assert answer["not_judged"] == ["pod anti-affinity"]


async def test_explain_says_that_a_reservation_is_over(running: Running) -> None:
    """s10: what was placed and never bound is not held any more."""
    wanted = await running.create(pod("llm", vram="5Gi"))
    assert (await running.filter(wanted, "a"))["NodeNames"] == ["a"]
    assert (await explained(running, "llm"))["outcome"] == "placed"
    daemon = running.daemon
    daemon.effects(daemon.state.pods.sweep(time.monotonic() + 1000))
    answer = await explained(running, "llm")
    assert (answer["outcome"], answer["placement"]["node"], answer["stage"]) == ("expired", "a", "waiting")
    assert (await running.filter(wanted, "a"))["NodeNames"] == ["a"]
    assert (await explained(running, "llm"))["outcome"] == "placed"
    running.api.remove(NODES, "a")
    await running.caught_up()
    assert (await explained(running, "llm"))["outcome"] == "node_changed"


@pytest.mark.parametrize(("query", "status"), [("pod=default/none", 404), ("pod=none", 400), ("", 400)])
async def test_explain_of_nothing(running: Running, query: str, status: int) -> None:
    assert (await running.get(f"/v1/explain?{query}"))[0] == status


async def test_metrics_tell_memory_by_node_latency_by_verb_and_fragmentation(running: Running) -> None:
    await running.place(await running.create(pod("llm", vram="50Gi")), "a")
    gib = 2.0**30
    assert await running.metric("headroom_node_vram_bytes", node="a", state="usable") == 160 * gib
    assert await running.metric("headroom_node_vram_bytes", node="a", state="declared") == 50 * gib
    assert await running.metric("headroom_node_vram_bytes", node="a", state="free") == 110 * gib
    assert await running.metric("headroom_node_slices", node="a", state="total") == 2
    assert await running.metric("headroom_largest_free_bytes") == 80 * gib
    for verb in ("filter", "bind"):
        assert await running.metric("headroom_extender_request_seconds_count", verb=verb) == 1
    # 30 GiB on the used card of `a` and 40 GiB on `b` cannot take another pod of 50 GiB: 70 of 230 GiB free.
    assert await running.metric("headroom_fragmentation_ratio") == pytest.approx(70 / 230)
    assert await running.metric("headroom_bound_pods") == 1
    assert await running.metric("headroom_reservations") == 0


async def test_the_snapshot_holds_the_whole_state(running: Running) -> None:
    await running.place(await running.create(pod("llm", vram="50Gi")))
    waits = await running.create(pod("waits", vram="300Gi"))
    await running.filter(waits)
    held = await running.create(pod("held", vram="10Gi"))
    await running.filter(held)
    snapshot = json.loads((await running.get("/debug/snapshot?check"))[1])
    assert [entry["pod"] for entry in snapshot["reservations"]] == ["default/held"]
    assert snapshot["refused"] == ["default/waits"]
    assert snapshot["breaches"] == []
    assert {entry["name"] for entry in snapshot["fleet"]["nodes"]} == {"a", "b", "t"}


async def test_fit_judges_a_cordon_as_kube_scheduler_does(running: Running) -> None:
    """N19 kubernetes#67845: a DaemonSet's pod tolerates it."""
    running.api.put(NODES, node("c", 80, unschedulable=True))
    await running.caught_up()
    tolerant = {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}
    for tolerations, nodes in (([], {"a"}), ([tolerant], {"a", "c"})):
        _, answer = await running.post("/v1/fit", {"pod": pod("p", vram="60Gi", tolerations=tolerations)})
        assert answer["nodes"].keys() == nodes


@pytest.mark.parametrize(("limit", "fits"), [(-1, 0), (2**70, 5)])
async def test_fit_with_a_limit_beyond_reason(running: Running, limit: int, fits: int) -> None:
    """s50: never a limit as if it were an answer."""
    status, answer = await running.post("/v1/fit", {"pod": pod("p", vram="30Gi"), "limit": limit})
    assert (status, answer["fits"], answer.get("at_least", False)) == (200, fits, limit < 0)

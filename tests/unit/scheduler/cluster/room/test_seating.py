"""Pods of a group get their places together or not at all, on an extender that is spoken to as kube-scheduler does."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.ledger.holding import HoldingState
from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, PODS, Running, extender, node, pod

Object = dict[str, Any]
QUICK: dict[str, Any] = {"sweep_seconds": 0.05, "naming_ahead": False}


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        for name in ("n0", "n1", "n2"):
            server.put(NODES, node(name, 80, 80))
        yield server


@pytest.fixture
async def running(api: ApiServer, tmp_path: Path) -> AsyncIterator[Running]:
    async with extender(api, tmp_path, **QUICK) as ready:
        yield ready


def member(name: str, size: int = 4, group: str = "g", **more: Any) -> Object:
    """A pod of 70 GiB, which fills a card, in a group of so many."""
    body = pod(name, vram=more.pop("vram", "70Gi"), **more)
    body["metadata"]["annotations"] = {"headroom.dev/group": group, "headroom.dev/group-size": str(size)}
    body["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    return body


async def members(running: Running, count: int, size: int | None = None, group: str = "g", **more: Any) -> list[Object]:
    return [await running.create(member(f"{group}-{at}", size or count, group, **more)) for at in range(count)]


def reserved(running: Running) -> dict[str, str]:
    """Node by pod, of those that hold a place and are not bound."""
    held = running.daemon.state.ledger.holdings.values()
    return {one.pod.split("/")[1]: one.placement.node for one in held if one.state is not HoldingState.BOUND}


def words(answer: Object) -> str:
    (found,) = set(answer["FailedAndUnresolvableNodes"].values())
    return str(found)


async def test_the_first_member_is_answered_once_all_fit_and_each_goes_to_its_own_place(running: Running) -> None:
    gang = await members(running, 6)
    (first,) = (await running.filter(gang[2]))["NodeNames"]
    places = reserved(running)
    assert len(places) == 6
    assert places["g-2"] == first
    assert sorted(places.values()) == ["n0", "n0", "n1", "n1", "n2", "n2"]
    for one in gang:
        assert (await running.filter(one))["NodeNames"] == [places[one["metadata"]["name"]]]
    assert reserved(running) == places
    for one in gang:
        assert await running.bind(one, places[one["metadata"]["name"]]) == {}
    assert reserved(running) == {}
    assert running.daemon.state.breaches() == []


async def test_a_gang_of_eight_on_six_cards_holds_nothing_and_a_small_pod_runs(running: Running) -> None:
    """The first harm of gangs placed pod by pod: six reservations whose end wakes the gang, which takes them again."""
    gang = await members(running, 8)
    small = await running.create(pod("small", vram="70Gi"))
    for _ in range(3):
        for one in gang:
            answer = await running.filter(one)
            assert answer["NodeNames"] == []
            assert words(answer) == "group default/g: its 8 pods without a place do not all fit together now"
        assert reserved(running) == {}
    before = running.daemon.state.pods.freed.count
    assert await running.place(small)
    for one in gang:
        await running.filter(one)
    await running.caught_up()
    assert running.daemon.state.pods.freed.count == before, "giving up nothing wakes nobody"
    assert running.api.asked("PATCH", NODES) == []


async def test_nothing_is_reserved_until_all_members_are_there(running: Running) -> None:
    gang = await members(running, 3, size=4)
    assert words(await running.filter(gang[0])) == "group default/g has 3 of 4 members"
    assert reserved(running) == {}
    last = await running.create(member("g-3"))
    assert (await running.filter(last))["NodeNames"]
    assert len(reserved(running)) == 4
    # Those that were refused rest: they hear of it by a changed node.
    await running.until(lambda: bool(running.api.asked("PATCH", NODES)))


async def test_a_member_without_a_gpu_counts_and_is_left_to_kube_scheduler(running: Running) -> None:
    gang = await members(running, 2, size=3)
    launcher = member("launcher", 3, vram="")
    await running.create(launcher)
    assert (await running.filter(gang[1]))["NodeNames"]
    assert sorted(reserved(running)) == ["g-0", "g-1"]


async def test_a_pod_beyond_the_number_is_placed_by_itself(running: Running) -> None:
    gang = await members(running, 5, size=4)
    await running.filter(gang[0])
    assert len(reserved(running)) == 4
    (extra,) = [one for one in gang if one["metadata"]["name"] not in reserved(running)]
    assert (await running.filter(extra))["NodeNames"]


async def test_equal_names_in_two_namespaces_are_two_groups(running: Running) -> None:
    ours = await members(running, 1, size=2)
    other = member("other", 2)
    other["metadata"]["namespace"] = "elsewhere"
    await running.create(other)
    assert words(await running.filter(ours[0])) == "group default/g has 1 of 2 members"


async def test_members_that_disagree_on_the_number_get_the_reason_and_hold_nothing(running: Running) -> None:
    gang = [await running.create(member("a", 2)), await running.create(member("b", 3))]
    assert words(await running.filter(gang[0])) == "group default/g: its members disagree on their number: 2, 3"
    assert reserved(running) == {}


@pytest.mark.parametrize("size", ["0", "-1", "two", "", "5000"])
async def test_a_number_that_is_none_is_a_reason(running: Running, size: str) -> None:
    body = member("a", 2)
    body["metadata"]["annotations"]["headroom.dev/group-size"] = size
    created = await running.create(body)
    assert words(await running.filter(created)).startswith(f"pod default/a: headroom.dev/group-size: {size}")


async def test_trial_placements_on_other_nodes_change_nothing_and_their_binding_moves_the_group(
    running: Running,
) -> None:
    """The second harm: the pod-group cycle of Kubernetes 1.36 asks for each placement, and no undo reaches the extender."""
    gang = await members(running, 2, vram="40Gi")
    for one in gang:
        assert (await running.filter(one, "n0"))["NodeNames"] == ["n0"]
    held = reserved(running)
    for other in ("n1", "n2", "n1"):
        for one in gang:
            assert (await running.filter(one, other))["NodeNames"] == [other]
            assert reserved(running) == held
    for one in gang:
        assert await running.bind(one, "n2") == {}
    assert running.daemon.state.breaches() == []
    assert {one.placement.node for one in running.daemon.state.ledger.holdings.values()} == {"n2"}


async def test_a_trial_that_does_not_fit_leaves_the_places_as_they_are(running: Running) -> None:
    gang = await members(running, 4)
    await running.filter(gang[0])
    held = reserved(running)
    assert len(set(held.values())) == 2
    (third,) = {"n0", "n1", "n2"} - set(held.values())
    answer = await running.filter(gang[0], third)
    assert answer["NodeNames"] == []
    assert "not offered" in words(answer)
    assert reserved(running) == held
    assert (await running.filter(gang[0]))["NodeNames"] == [held["g-0"]]


async def test_a_trial_keeps_places_on_cards_that_have_become_fuller_than_planned(running: Running) -> None:
    """Measured use of nobody's process has grown since: what was reserved there is not asked for again."""
    gang = await members(running, 2, vram="40Gi")
    for one in gang:
        await running.filter(one, "n0")
    fleet = running.daemon.state.fleet
    fleet.set_measured(fleet.row_of["n0"], [60 * 1024] * 2, [60 * 1024] * 2)
    held = reserved(running)
    for one in gang:
        assert (await running.filter(one, "n1"))["NodeNames"] == ["n1"]
    assert reserved(running) == held
    for one in gang:
        assert await running.bind(one, "n1") == {}


async def test_a_member_that_waits_for_the_others_keeps_its_room(running: Running) -> None:
    """The third harm: at Permit a pod waits without a word for longer than a reservation of one pod lasts."""
    gang = await members(running, 4)
    single = await running.create(pod("single", vram="70Gi"))
    for one in (gang[0], single):
        await running.filter(one)
    held = reserved(running)
    del held["single"]
    daemon = running.daemon
    daemon.effects(daemon.state.pods.sweep(time.monotonic() + 10 * daemon.settings.reservation_seconds))
    assert reserved(running) == held
    assert await running.bind(gang[0], held["g-0"]) == {}


async def test_after_the_limit_the_whole_group_gives_its_room_back_and_rests(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, **QUICK, group_hold_seconds=1.0) as running:
        gang = await members(running, 4)
        await running.filter(gang[0])
        await running.until(lambda: reserved(running) == {})
        assert "tried again later" in words(await running.filter(gang[1]))
        assert reserved(running) == {}
        answer = await running.bind(gang[0], "n0")
        assert "has no places reserved" in answer["Error"]
        assert reserved(running) == {}


@pytest.mark.parametrize("bound", [False, True])
async def test_a_member_that_goes_frees_the_group_unless_it_is_under_way(running: Running, bound: bool) -> None:
    gang = await members(running, 4)
    await running.filter(gang[0])
    held = reserved(running)
    if bound:
        await running.bind(gang[0], held["g-0"])
    running.api.remove(PODS, "g-3")
    await running.caught_up()
    assert sorted(reserved(running)) == (["g-1", "g-2"] if bound else [])
    again = await running.create(member("g-4"))
    assert (await running.filter(again))["NodeNames"]
    assert len(reserved(running)) == (3 if bound else 4)
    assert running.daemon.state.breaches() == []


async def test_a_binding_that_fails_keeps_the_place_for_the_next_attempt(running: Running) -> None:
    gang = await members(running, 2)
    await running.filter(gang[0])
    held = reserved(running)
    running.api.fail("POST", "/binding$", status=422)
    assert (await running.bind(gang[0], held["g-0"]))["Error"]
    assert reserved(running) == held
    assert (await running.filter(gang[0]))["NodeNames"] == [held["g-0"]]
    assert await running.bind(gang[0], held["g-0"]) == {}


async def test_the_end_of_a_node_frees_the_group_as_a_whole(running: Running) -> None:
    gang = await members(running, 4)
    await running.filter(gang[0])
    running.api.remove(NODES, reserved(running)["g-0"])
    await running.caught_up()
    assert reserved(running) == {}
    answer = await running.filter(gang[0], *{"n0", "n1", "n2"} & set(running.daemon.state.fleet.row_of))
    assert answer["NodeNames"]
    assert len(reserved(running)) == 4


async def test_members_that_must_not_share_a_host_do_not(running: Running) -> None:
    rule = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "g"}}}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [rule]}}
    gang = await members(running, 3, vram="10Gi", labels={"app": "g"}, affinity=apart)
    await running.filter(gang[0])
    assert sorted(reserved(running).values()) == ["n0", "n1", "n2"]


async def test_a_more_important_pod_does_not_take_one_place_of_a_group(running: Running) -> None:
    gang = await members(running, 6)
    await running.filter(gang[0])
    held = reserved(running)
    urgent = await running.create(pod("urgent", vram="70Gi", priority=1000))
    assert (await running.filter(urgent))["NodeNames"] == []
    assert reserved(running) == held


async def test_a_quota_is_counted_for_the_whole_group(running: Running) -> None:
    running.api.put(
        "/api/v1/namespaces", {"metadata": {"name": "default", "annotations": {"headroom.dev/max-cards": "3"}}}
    )
    await running.caught_up()
    gang = await members(running, 4)
    assert "headroom.dev/max-cards 3" in words(await running.filter(gang[0]))
    assert reserved(running) == {}


def of_job(body: Object, job: str) -> Object:
    body["metadata"]["ownerReferences"] = [{"kind": "Job", "name": job, "uid": job, "controller": True}]
    return body


async def test_members_that_have_succeeded_are_not_missing_and_those_of_an_earlier_run_do_not_count(
    running: Running,
) -> None:
    """A Job's last pod may be made anew when the others are done; a CronJob's next run names the same group."""
    first = [await running.create(of_job(member(f"a-{at}", 3), "one")) for at in range(3)]
    await running.filter(first[0])
    for one in first:
        await running.bind(one, reserved(running)[one["metadata"]["name"]])
    for at in range(2):
        done = running.api.get(PODS, f"a-{at}")
        done["status"]["phase"] = "Succeeded"
        running.api.put(PODS, done)
    running.api.remove(PODS, "a-2")
    again = await running.create(of_job(member("a-3", 3), "one"))
    assert (await running.filter(again))["NodeNames"]
    running.api.remove(PODS, "a-3")
    later = [await running.create(of_job(member(f"b-{at}", 3), "two")) for at in range(2)]
    assert words(await running.filter(later[0])) == "group default/g has 2 of 3 members"


async def test_a_member_that_was_placed_by_itself_can_be_seated_with_others_later(running: Running) -> None:
    """It gives its own place back when it is seated: that must not end the seats that it and the others have just been given."""
    gang = await members(running, 3, size=2, vram="20Gi")
    for one in gang[:2]:
        await running.place(one)
    assert (await running.filter(gang[2]))["NodeNames"]
    for name in ("g-0", "g-1"):
        running.api.remove(PODS, name)
    other = await running.create(member("g-3", 2, vram="20Gi"))
    await running.caught_up()
    (node_name,) = (await running.filter(gang[2]))["NodeNames"]
    assert sorted(reserved(running)) == ["g-2", "g-3"]
    assert await running.bind(gang[2], node_name) == {}
    assert await running.place(other)
    assert running.daemon.state.breaches() == []


@pytest.mark.parametrize("said", [{}, {"headroom.dev/group": "other", "headroom.dev/group-size": "2"}])
@pytest.mark.parametrize("asked", [False, True])
async def test_a_member_that_leaves_its_group_has_no_seat_there_any_more(
    running: Running, said: dict[str, str], asked: bool
) -> None:
    gang = await members(running, 4)
    await running.filter(gang[0])
    record = running.daemon.state.groups.of(gang[0]["metadata"]["uid"])
    assert record is not None
    changed = running.api.get(PODS, "g-1")
    changed["metadata"]["annotations"] = said
    running.api.put(PODS, changed)
    if asked:
        await running.filter(running.api.get(PODS, "g-1"))
    await running.caught_up()
    assert not record.seated
    assert not reserved(running).keys() & {"g-0", "g-2", "g-3"}
    assert running.daemon.state.breaches() == []


async def test_a_member_whose_demand_cannot_be_understood_is_missing(running: Running) -> None:
    gang = await members(running, 3, size=4)
    await running.create(member("odd", 4, vram="much"))
    await running.caught_up()
    assert words(await running.filter(gang[0])) == "group default/g has 3 of 4 members"


async def test_a_group_that_rested_is_woken_for_the_nodes_on_which_it_was_not_bound_in_time(running: Running) -> None:
    gang = await members(running, 2)
    await running.filter(gang[0], "n0")
    daemon = running.daemon
    record = daemon.state.groups.of(gang[0]["metadata"]["uid"])
    assert record is not None
    record.failures = 2000
    daemon.effects(daemon.state.pods.sweep(record.deadline + 1))
    assert reserved(running) == {}
    assert "tried again later" in words(await running.filter(gang[0], "n0"))
    daemon.effects(daemon.seating.rested(record.not_before))
    await running.until(lambda: bool(running.api.asked("PATCH", NODES)))
    assert (await running.filter(gang[0], "n0"))["NodeNames"] == ["n0"]


async def test_a_member_that_ended_before_it_was_shown_bound_is_not_missing(running: Running) -> None:
    gang = [await running.create(of_job(member(f"g-{at}", 2), "one")) for at in range(2)]
    await running.filter(gang[0])
    done = running.api.get(PODS, "g-0")
    done["spec"]["nodeName"], done["status"]["phase"] = reserved(running)["g-0"], "Succeeded"
    running.api.put(PODS, done)
    await running.caught_up()
    assert (await running.filter(gang[1]))["NodeNames"]

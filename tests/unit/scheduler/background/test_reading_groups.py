"""Numbers of members that stand in objects: read when a pod names one, and what is done where they cannot be read."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, Running, extender, node, pod

Object = dict[str, Any]
MPI: Object = {"training.kubeflow.org/job-name": "job", "training.kubeflow.org/job-role": "worker"}


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        server.put(NODES, node("n0", 80, 80))
        yield server


@pytest.fixture
async def running(api: ApiServer, tmp_path: Path) -> AsyncIterator[Running]:
    async with extender(api, tmp_path, sweep_seconds=0.05, naming_ahead=False) as ready:
        yield ready


def pod_groups(api: ApiServer) -> str:
    return api.serve_kind("scheduling.x-k8s.io/v1alpha1", "PodGroup", "podgroups", scale=False)


def pod_group(size: object) -> Object:
    return {"metadata": {"name": "pg", "namespace": "default"}, "spec": {"minMember": size}}


async def member(running: Running, name: str) -> Object:
    return await running.create(pod(name, vram="70Gi", labels={"scheduling.x-k8s.io/pod-group": "pg"}))


def words(answer: Object) -> str:
    (found,) = set(answer["FailedAndUnresolvableNodes"].values())
    return str(found)


async def test_the_number_comes_from_the_pod_group(api: ApiServer, running: Running) -> None:
    api.put(pod_groups(api), pod_group(2))
    first = await member(running, "a")
    assert words(await running.filter(first)) == "group default/pg has 1 of 2 members"
    await member(running, "b")
    assert (await running.filter(first))["NodeNames"] == ["n0"]
    assert len(running.daemon.state.ledger.holdings) == 2


async def test_a_number_that_is_known_counts_while_the_object_cannot_be_read(api: ApiServer, running: Running) -> None:
    api.put(pod_groups(api), pod_group(2))
    first = await member(running, "a")
    assert words(await running.filter(first)) == "group default/pg has 1 of 2 members"
    (record,) = running.daemon.state.groups.records.values()
    api.fail("GET", "/podgroups/", status=500, times=1)
    await running.daemon.group_reader._read(record)
    assert record.number() == 2
    await member(running, "b")
    assert (await running.filter(first))["NodeNames"] == ["n0"]


async def test_where_the_api_is_not_served_the_label_has_no_meaning(running: Running) -> None:
    assert (await running.filter(await member(running, "a")))["NodeNames"] == ["n0"]


@pytest.mark.parametrize(("size", "value"), [(0, "0"), ("some", "some")])
async def test_a_number_that_is_none_is_a_reason(api: ApiServer, running: Running, size: object, value: str) -> None:
    api.put(pod_groups(api), pod_group(size))
    assert f"pod podgroups/pg: spec.minMember: {value}:" in words(await running.filter(await member(running, "a")))


async def test_a_pod_group_that_is_not_there_is_waited_for(api: ApiServer, running: Running) -> None:
    resource = pod_groups(api)
    api.put(resource, {**pod_group(1), "metadata": {"name": "another", "namespace": "default"}})
    first = await member(running, "a")
    assert "does not exist" in words(await running.filter(first))
    api.put(resource, pod_group(1))
    (record,) = running.daemon.state.groups.records.values()
    await running.daemon.group_reader._read(record)  # without the five seconds until it is read again
    await running.until(lambda: bool(api.asked("PATCH", NODES)))
    assert (await running.filter(first))["NodeNames"] == ["n0"]


@pytest.mark.parametrize("explicit", [True, False])
async def test_without_the_right_to_read_it_the_reason_says_so_and_jobs_go_pod_by_pod(
    api: ApiServer, running: Running, explicit: bool
) -> None:
    api.fail("GET", "/podgroups/|/mpijobs/", status=403, times=100)
    if explicit:
        assert "right to read" in words(await running.filter(await member(running, "a")))
        return
    body = pod("worker", vram="70Gi", labels=MPI)
    owner = {"apiVersion": "kubeflow.org/v2beta1", "kind": "MPIJob", "name": "job", "uid": "u", "controller": True}
    body["metadata"]["ownerReferences"] = [owner]
    assert (await running.filter(await running.create(body)))["NodeNames"] == ["n0"]

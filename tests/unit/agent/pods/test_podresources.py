"""Kubelet's socket: there, missing, slow, refusing, answering nonsense, and back."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from agent.pods.podresources import MESSAGES, PodResources, PodResourcesError, devices_in, encode_devices
from agent.pods.reconcile import Device
from tests.fakes.kubelet import Kubelet, list_answer
from tests.waiting import until

DEVICES = [
    Device("chat", "one", "engine", "nvidia.com/gpu", "GPU-a::0"),
    Device("chat", "one", "engine", "nvidia.com/gpu", "GPU-a::1"),
    Device("mail", "two", "engine", "nvidia.com/mig-1g.10gb", "MIG-b"),
    Device("mail", "three", "engine", "gpu.nvidia.com", "gpu-1", "node-1"),
]


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[Kubelet]:
    async with Kubelet(tmp_path / "kubelet.sock") as one:
        one.devices = DEVICES
        yield one


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[PodResources]:
    one = PodResources(str(tmp_path / "kubelet.sock"), timeout_seconds=0.5)
    yield one
    await one.close()


async def test_the_devices_of_every_container_are_listed(kubelet: Kubelet, client: PodResources) -> None:
    """A07, dcgm-exporter#569: a container that has devices by a resource claim alone is seen, too (`dynamic_resources`)."""
    assert await client.devices() == tuple(DEVICES)


async def test_a_node_without_pods_has_no_devices(kubelet: Kubelet, client: PodResources) -> None:
    kubelet.devices = []
    assert await client.devices() == ()


async def test_a_slow_kubelet_is_not_waited_for(kubelet: Kubelet, client: PodResources) -> None:
    kubelet.delay_seconds = 5.0
    with pytest.raises(PodResourcesError) as raised:
        await client.devices()
    assert raised.value.reason == "slow"


async def test_a_refusal_and_nonsense_are_told_apart(kubelet: Kubelet, client: PodResources) -> None:
    kubelet.refusal = grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(PodResourcesError, match="scripted") as raised:
        await client.devices()
    assert raised.value.reason == "refused"
    kubelet.refusal, kubelet.garbage = None, True
    with pytest.raises(PodResourcesError) as raised:
        await client.devices()
    assert raised.value.reason == "broken"


async def test_a_missing_socket_is_said_and_a_kubelet_that_comes_is_found(tmp_path: Path, client: PodResources) -> None:
    with pytest.raises(PodResourcesError) as raised:
        await client.devices()
    assert raised.value.reason == "missing"
    async with Kubelet(tmp_path / "kubelet.sock") as kubelet:
        kubelet.devices = DEVICES
        assert await eventually(client) == tuple(DEVICES)


async def eventually(client: PodResources) -> tuple[Device, ...]:
    async def answers() -> bool:
        with contextlib.suppress(PodResourcesError):
            await client.devices()
            return True
        return False

    await until(answers)
    return await client.devices()


def test_encoding_is_the_inverse_of_reading() -> None:
    answer = MESSAGES["ListPodResourcesResponse"].FromString(encode_devices(DEVICES))
    assert devices_in(answer) == tuple(DEVICES)
    assert devices_in(MESSAGES["ListPodResourcesResponse"].FromString(list_answer(DEVICES))) == tuple(DEVICES)

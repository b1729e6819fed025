"""Kubelet's PodResources API on a unix socket, spoken to over real gRPC.

Answers are written in the wire format by hand, from the field numbers of k8s.io/kubelet pkg/apis/podresources/v1/api.proto, and with
fields that the agent does not read, so that a wrong number in the agent's own declaration cannot go unnoticed.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from agent.pods.reconcile import Device


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def list_answer(devices: Iterable[Device]) -> bytes:
    """A ListPodResourcesResponse as kubelet encodes it."""
    answer = b""
    for device in devices:
        topology = _field(1, _number(1, 1))
        entry = _field(1, device.resource.encode()) + _field(2, device.id.encode()) + _field(3, topology)
        memory = _field(1, b"memory") + _number(2, 2**33)
        given = _field(2, entry)
        if (
            device.pool
        ):  # DynamicResource: claim's name and namespace, ClaimResources: CDI devices, driver, pool, device, share
            names = (
                _field(2, device.resource.encode()) + _field(3, device.pool.encode()) + _field(4, device.id.encode())
            )
            claimed = _field(1, _field(1, b"k8s.gpu.nvidia.com/claim=c-0")) + names + _field(5, b"share")
            given = _field(5, _field(2, b"claim") + _field(3, device.namespace.encode()) + _field(4, claimed))
        container = _field(1, device.container.encode()) + given + _field(3, b"\x02\x03") + _field(4, memory)
        answer += _field(
            1, _field(1, device.pod.encode()) + _field(2, device.namespace.encode()) + _field(3, container)
        )
    return answer


def allocatable_answer(devices: Iterable[tuple[str, str]]) -> bytes:
    """An AllocatableResourcesResponse as kubelet encodes it, of (resource, device id)."""
    entries = (_field(1, resource.encode()) + _field(2, device_id.encode()) for resource, device_id in devices)
    return b"".join(_field(1, entry) for entry in entries) + _field(2, b"\x00\x01")


class Kubelet:
    """Use as `async with Kubelet(socket) as kubelet:`; `devices` is what it lists from then on, `allocatable` what its plugins
    hand out: (resource, device id), or None for a kubelet that knows no such question."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.devices: list[Device] = []
        self.allocatable: list[tuple[str, str]] | None = None
        self.delay_seconds = 0.0
        self.garbage = False
        self.refusal: grpc.StatusCode | None = None
        self.asked = 0
        self._server: grpc.aio.Server | None = None

    async def _list(self, _: bytes, context: Any) -> bytes:
        self.asked += 1
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        if self.refusal is not None:
            await context.abort(self.refusal, "scripted")
        return b"\xff\xff\xff" if self.garbage else list_answer(self.devices)

    async def _allocatable(self, _: bytes, context: Any) -> bytes:
        if self.allocatable is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method")
        return allocatable_answer(self.allocatable or ())

    async def start(self) -> None:
        """Listen, also again after a stop."""
        self._server = grpc.aio.server()
        handlers = {
            "List": grpc.unary_unary_rpc_method_handler(self._list),
            "GetAllocatableResources": grpc.unary_unary_rpc_method_handler(self._allocatable),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1.PodResourcesLister", handlers),)
        )
        self._server.add_insecure_port(f"unix://{self.socket}")
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening; the socket file goes."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None
        self.socket.unlink(missing_ok=True)

    async def __aenter__(self) -> "Kubelet":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

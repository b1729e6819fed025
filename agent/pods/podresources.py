"""Asks kubelet which pod holds which device: PodResources API v1, gRPC on a unix socket.

Messages follow k8s.io/kubelet `pkg/apis/podresources/v1/api.proto`; only the fields that are read are declared, the rest of a
message is skipped, as protobuf does with what it does not know.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from agent.pods.reconcile import Device
from headroom.errors import HeadroomError

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_MESSAGES: Final[Mapping[str, tuple[tuple[str, int, str], ...]]] = {
    "ListPodResourcesResponse": (("pod_resources", 1, "PodResources"),),
    "AllocatableResourcesResponse": (("devices", 1, "ContainerDevices"),),
    "PodResources": (("name", 1, ""), ("namespace", 2, ""), ("containers", 3, "ContainerResources")),
    "ContainerResources": (
        ("name", 1, ""),
        ("devices", 2, "ContainerDevices"),
        ("dynamic_resources", 5, "DynamicResource"),
    ),
    "ContainerDevices": (("resource_name", 1, ""), ("device_ids", 2, "[]")),
    "DynamicResource": (("claim_resources", 4, "ClaimResource"),),
    "ClaimResource": (("driver_name", 2, ""), ("pool_name", 3, ""), ("device_name", 4, "")),
}
"""Message -> (field, number, kind); kind is empty for text, `[]` for a list of texts, else the name of a repeated message."""

_NO_FIELDS: Final = b""  # both requests are messages without fields
LIST_METHOD: Final = "/v1.PodResourcesLister/List"
ALLOCATABLE_METHOD: Final = "/v1.PodResourcesLister/GetAllocatableResources"
_LARGEST_ANSWER: Final = 16 * 2**20  # kubelet's own client allows this much


class PodResourcesError(HeadroomError):
    """Kubelet did not answer, or not in time; `reason` is one of missing, slow, refused, broken."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def _message_types() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="headroom_podresources.proto", package="v1", syntax="proto3")
    for message, entries in _MESSAGES.items():
        descriptor = file.message_type.add(name=message)
        for name, number, kind in entries:
            nested = kind not in ("", "[]")
            descriptor.field.add(
                name=name,
                number=number,
                label=_FIELD.LABEL_REPEATED if kind else _FIELD.LABEL_OPTIONAL,
                type=_FIELD.TYPE_MESSAGE if nested else _FIELD.TYPE_STRING,
                type_name=f".v1.{kind}" if nested else None,
            )
    # A pool of its own: another library of the process may have registered the same names.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1.{name}")) for name in _MESSAGES}


MESSAGES: Final = _message_types()


def devices_in(answer: Any) -> tuple[Device, ...]:
    """The devices in a ListPodResourcesResponse: those of device plugins in its order, then those of resource claims."""
    containers = [(pod, container) for pod in answer.pod_resources for container in pod.containers]
    by_plugins = [
        Device(pod.namespace, pod.name, container.name, devices.resource_name, device_id)
        for pod, container in containers
        for devices in container.devices
        for device_id in devices.device_ids
    ]
    by_claims = [
        Device(pod.namespace, pod.name, container.name, claimed.driver_name, claimed.device_name, claimed.pool_name)
        for pod, container in containers
        for dynamic in container.dynamic_resources
        for claimed in dynamic.claim_resources
    ]
    return (*by_plugins, *by_claims)


def encode_devices(devices: Iterable[Device]) -> bytes:
    """A ListPodResourcesResponse that holds these devices, each in an entry of its own; for recordings and fakes."""
    answer = MESSAGES["ListPodResourcesResponse"]()
    for device in devices:
        pod = answer.pod_resources.add(name=device.pod, namespace=device.namespace)
        container = pod.containers.add(name=device.container)
        if device.pool:
            container.dynamic_resources.add().claim_resources.add(
                driver_name=device.resource, pool_name=device.pool, device_name=device.id
            )
        else:
            container.devices.add(resource_name=device.resource).device_ids.append(device.id)
    return bytes(answer.SerializeToString())


class PodResources:
    """A client of one kubelet. The channel connects by itself whenever the socket is there."""

    def __init__(self, socket: str, *, timeout_seconds: float = 2.0) -> None:
        self._socket, self._timeout = socket, timeout_seconds
        options = [
            ("grpc.max_receive_message_length", _LARGEST_ANSWER),
            # A kubelet that was away a moment ago is tried again now, not after gRPC's own two minutes of back-off.
            ("grpc.initial_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 5000),
            ("grpc.enable_http_proxy", 0),
            # Kubelet serves plain HTTP/2 and rejects the escaped socket path that gRPC would send as authority.
            ("grpc.default_authority", "localhost"),
        ]
        self._channel = grpc.aio.insecure_channel(f"unix://{socket}", options=options)
        # Bytes in, bytes out: a deserialiser that fails is only logged by gRPC, which then answers None.
        self._list = self._channel.unary_unary(LIST_METHOD)
        self._allocatable = self._channel.unary_unary(ALLOCATABLE_METHOD)

    async def devices(self) -> tuple[Device, ...]:
        """Every device held by any pod of the node. Raises PodResourcesError."""
        return devices_in(await self._ask(self._list, "ListPodResourcesResponse"))

    async def allocatable(self) -> tuple[Device, ...]:
        """Every device in working order that a device plugin hands out here, held by a pod or not. Raises PodResourcesError."""
        answer = await self._ask(self._allocatable, "AllocatableResourcesResponse")
        return tuple(
            Device("", "", "", devices.resource_name, device_id)
            for devices in answer.devices
            for device_id in devices.device_ids
        )

    async def _ask(self, method: Any, message: str) -> Any:
        try:
            return MESSAGES[message].FromString(await method(_NO_FIELDS, timeout=self._timeout))
        except grpc.aio.AioRpcError as error:
            reason = _REASONS.get(error.code(), "refused")
            raise PodResourcesError(f"{self._socket}: {error.code().name}: {error.details()}", reason) from error
        except (DecodeError, UnicodeDecodeError) as error:
            raise PodResourcesError(f"{self._socket}: answer cannot be read: {error}", "broken") from error

    async def close(self) -> None:
        """Release the channel."""
        await self._channel.close()


_REASONS: Final = {
    grpc.StatusCode.UNAVAILABLE: "missing",
    grpc.StatusCode.DEADLINE_EXCEEDED: "slow",
    grpc.StatusCode.INTERNAL: "broken",
}

"""The few fields of ResourceSlice, ResourceClaim and DeviceClass (`resource.k8s.io/v1`) that Headroom reads, as msgspec structs."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from headroom.wire import Decoder, Meta, NodeSelector, Quantity, Wire

# ResourceSlice


class Attribute(Wire):
    """A device's attribute: one of these is set; lists of values (DRAListTypeAttributes) are not read."""

    string: str | None = None
    version: str | None = None
    int_: int | None = msgspec.field(name="int", default=None)
    bool_: bool | None = msgspec.field(name="bool", default=None)

    @property
    def value(self) -> str | int | bool | None:
        """Whichever is set."""
        return next((each for each in (self.string, self.version, self.int_, self.bool_) if each is not None), None)


class RequestPolicy(Wire):
    default: Quantity | None = None


class Capacity(Wire):
    value: Quantity = "0"
    request_policy: RequestPolicy | None = None


class Counter(Wire):
    value: Quantity = "0"


class CounterSet(Wire):
    name: str = ""
    counters: dict[str, Counter] = msgspec.field(default_factory=dict)


class CounterConsumption(Wire):
    counter_set: str = ""
    counters: dict[str, Counter] = msgspec.field(default_factory=dict)


class DeviceTaint(Wire):
    key: str = ""
    effect: str = ""


class SliceDevice(Wire):
    name: str = ""
    attributes: dict[str, Attribute] = msgspec.field(default_factory=dict)
    capacity: dict[str, Capacity] = msgspec.field(default_factory=dict)
    consumes_counters: Sequence[CounterConsumption] = ()
    node_name: str = ""
    """Where the slice leaves the node to each device."""
    taints: Sequence[DeviceTaint] = ()
    allow_multiple_allocations: bool = False


class Pool(Wire):
    name: str = ""
    generation: int = 0
    resource_slice_count: int = 0


class SliceSpec(Wire):
    driver: str = ""
    pool: Pool = msgspec.field(default_factory=Pool)
    node_name: str = ""
    devices: Sequence[SliceDevice] = ()
    shared_counters: Sequence[CounterSet] = ()


class ResourceSlice(Wire):
    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: SliceSpec = msgspec.field(default_factory=SliceSpec)


# DeviceClass


class CelSelector(Wire):
    expression: str = ""


class DeviceSelector(Wire):
    cel: CelSelector | None = None


class DeviceClassSpec(Wire):
    selectors: Sequence[DeviceSelector] = ()
    extended_resource_name: str = ""


class DeviceClass(Wire):
    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: DeviceClassSpec = msgspec.field(default_factory=DeviceClassSpec)


# ResourceClaim


class CapacityRequests(Wire):
    requests: dict[str, Quantity] = msgspec.field(default_factory=dict)


class DevicesWanted(Wire):
    """What a request asks for; of `firstAvailable`, one of the alternatives."""

    device_class_name: str = ""
    allocation_mode: str = ""
    """`ExactCount` when empty, or `All`."""
    count: int = 1
    capacity: CapacityRequests | None = None
    admin_access: bool = False


class DeviceRequest(Wire):
    name: str = ""
    exactly: DevicesWanted | None = None
    first_available: Sequence[DevicesWanted] = ()


class DeviceRequests(Wire):
    requests: Sequence[DeviceRequest] = ()


class ClaimSpec(Wire):
    devices: DeviceRequests = msgspec.field(default_factory=DeviceRequests)


class AllocatedDevice(Wire):
    driver: str = ""
    pool: str = ""
    device: str = ""
    admin_access: bool = False
    consumed_capacity: dict[str, Quantity] = msgspec.field(default_factory=dict)


class AllocatedDevices(Wire):
    results: Sequence[AllocatedDevice] = ()


class Allocation(Wire):
    devices: AllocatedDevices = msgspec.field(default_factory=AllocatedDevices)
    node_selector: NodeSelector | None = None


class Consumer(Wire):
    """Who may use an allocated claim: usually a pod."""

    resource: str = ""
    name: str = ""
    uid: str = ""


class ClaimStatus(Wire):
    allocation: Allocation | None = None
    reserved_for: Sequence[Consumer] = ()


class ResourceClaim(Wire):
    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: ClaimSpec = msgspec.field(default_factory=ClaimSpec)
    status: ClaimStatus = msgspec.field(default_factory=ClaimStatus)


DEVICE_CLASS: Final = Decoder(DeviceClass)
RESOURCE_SLICE: Final = Decoder(ResourceSlice)
RESOURCE_CLAIM: Final = Decoder(ResourceClaim)

EXTENDED_CLAIM: Final = "resource.kubernetes.io/extended-resource-claim"
"""Annotation of claims that kube-scheduler makes for pods that ask for an extended resource."""


def pods_of(claim: ResourceClaim) -> tuple[Consumer, ...]:
    """The pods that may use a claim: those it is reserved for, and the owner of one that was made for a pod."""
    found = {each.uid: each for each in claim.status.reserved_for if each.resource == "pods"}
    for owner in claim.metadata.owner_references:
        if owner.kind == "Pod":
            found.setdefault(owner.uid, Consumer("pods", owner.name, owner.uid))
    return tuple(found.values())


def quantity_of(amounts: dict[str, Any], name: str) -> Any:
    """The entry under a name, or under a qualified one (`gpu.example.com/memory`); None where there is none."""
    if name in amounts:
        return amounts[name]
    return next((amount for key, amount in amounts.items() if key.rpartition("/")[2] == name), None)

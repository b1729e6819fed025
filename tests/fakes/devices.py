"""Objects of `resource.k8s.io/v1`, as drivers and kube-scheduler write them."""

from collections.abc import Sequence
from typing import Any

Object = dict[str, Any]

CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"
NVIDIA = "gpu.nvidia.com"
A100 = "NVIDIA A100-SXM4-80GB"


def device_class(
    name: str = NVIDIA,
    resource: str = "",
    driver: str = NVIDIA,
    kind: str = "gpu",
    created: str = "2026-01-01T00:00:00Z",
) -> Object:
    """A class as NVIDIA's driver ships it; with `resource` it serves that extended resource."""
    expression = f"device.driver == '{driver}'" + (
        f" && device.attributes['{driver}'].type == '{kind}'" if kind else ""
    )
    spec: Object = {"selectors": [{"cel": {"expression": expression}}]}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": spec | ({"extendedResourceName": resource} if resource else {}),
    }


def device(
    name: str,
    uuid: str = "",
    *,
    gib: int = 80,
    kind: str = "gpu",
    product: str = A100,
    parent: str = "",
    taint: str = "",
    policy: Object | None = None,
    **more: Any,
) -> Object:
    """A device as NVIDIA's driver publishes it: a card, or with `parent` a part of one.

    `policy` is the requestPolicy of its memory, which lets several claims have it.
    """
    attributes: Object = {"type": {"string": kind}, "productName": {"string": product}}
    if uuid:
        attributes["uuid"] = {"string": uuid}
    if parent:
        attributes |= {"parentUUID": {"string": parent}, "profile": {"string": "1g.10gb"}}
    memory: Object = {"value": f"{gib}Gi"}
    found: Object = {"name": name, "attributes": attributes, "capacity": {"memory": memory} if gib else {}}
    if policy is not None:
        memory["requestPolicy"] = policy
        found["allowMultipleAllocations"] = True
    if taint:
        found["taints"] = [{"key": f"{NVIDIA}/xid", "effect": taint}]
    return found | more


def resource_slice(
    node: str,
    devices: Sequence[Object],
    *,
    driver: str = NVIDIA,
    name: str = "",
    generation: int = 1,
    slices: int = 1,
    **spec: Any,
) -> Object:
    """A slice of the pool that a driver has on a node."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name or f"{node}-{driver}"},
        "spec": {
            "driver": driver,
            "nodeName": node,
            "pool": {"name": node, "generation": generation, "resourceSliceCount": slices},
            "devices": list(devices),
            **spec,
        },
    }


def result(device_name: str, node: str, *, driver: str = NVIDIA, **more: Any) -> Object:
    """One device of an allocation; `consumed` is its consumed capacity."""
    consumed = more.pop("consumed", None)
    found = {"request": "gpu", "driver": driver, "pool": node, "device": device_name, **more}
    return found | ({"consumedCapacity": consumed} if consumed else {})


def claim(
    name: str,
    results: Sequence[Object] | None = None,
    *,
    pods: Sequence[tuple[str, str]] = (),
    node: str = "",
    extended: bool = False,
    requests: Sequence[Object] = (),
) -> Object:
    """A claim; allocated where there are results. `pods` are (name, uid)."""
    status: Object = {}
    if results is not None:
        allocation: Object = {"devices": {"results": list(results)}}
        if node:
            field = {"key": "metadata.name", "operator": "In", "values": [node]}
            allocation["nodeSelector"] = {"nodeSelectorTerms": [{"matchFields": [field]}]}
        status["allocation"] = allocation
        status["reservedFor"] = [{"resource": "pods", "name": pod, "uid": uid} for pod, uid in pods]
    metadata: Object = {"name": name, "namespace": "default", "uid": f"uid-of-{name}"}
    if extended:
        metadata["annotations"] = {"resource.kubernetes.io/extended-resource-claim": "true"}
        metadata["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid, "controller": True} for pod, uid in pods
        ]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": metadata,
        "spec": {"devices": {"requests": list(requests)}},
        "status": status,
    }

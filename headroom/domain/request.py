"""What a pod asks for: from the resources, selectors and labels of a pod to a GpuRequest, in every dialect. Pure.

Amounts are folded over containers as Kubernetes does (kubernetes.io/docs/concepts/workloads/pods/sidecar-containers):
ordinary containers and sidecars add up, an ordinary init container counts together with the sidecars started before it,
and the larger of the two is what the pod holds for life. Memory differs by who picks the card:

- with a device resource (`nvidia.com/gpu`), every container gets devices of its own, so counts add and the largest size
  per device counts for each;
- without one, all containers see the card or cards that Headroom picks (`headroom.dev/gpu` says how many), so sizes add on
  them and the largest count holds.
"""

from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Final, NamedTuple

from headroom import names, units, wire
from headroom.domain.accelerators import BY_RESOURCE, NVIDIA
from headroom.domain.card_models import plain_model
from headroom.domain.model import LARGEST_HOST, LARGEST_MIB, MOST_SHARES, WHOLE_MILLI, GpuRequest, Mode
from headroom.errors import HeadroomError

_SIZES: Final = (
    names.RESOURCE_VRAM,
    names.RESOURCE_GPU_MILLI,
    names.RESOURCE_HAMI_MEMORY,
    names.RESOURCE_HAMI_MEMORY_PERCENT,
    names.RESOURCE_GPUSHARE_MEMORY,
)
_IN_THOUSANDTHS: Final = (names.RESOURCE_GPU_MILLI, names.RESOURCE_HAMI_MEMORY_PERCENT)
_KNOWN: Final = frozenset((*_SIZES, *BY_RESOURCE, names.RESOURCE_GPU))
_OWN_PREFIX: Final = names.DOMAIN + "/"


class RequestError(HeadroomError, ValueError):
    """A pod whose demand cannot be understood; names the pod, the container, the resource and the value."""

    def __init__(self, pod: str, container: str, resource: str, value: str, reason: str) -> None:
        self.pod, self.container, self.resource, self.value, self.reason = pod, container, resource, value, reason
        where = f"pod {pod}" + (f", container {container}" if container else "")
        super().__init__(f"{where}: {resource}: {value}: {reason}")


class _Ask(NamedTuple):
    """A number of devices and the size per device, in MiB or thousandths."""

    devices: int = 0
    size: int = 0


class _Amounts(NamedTuple):
    """One container's accelerator resources that are above zero."""

    device: str
    """The device plugin's resource, empty when none is asked for."""
    sized_by: str
    """The resource that states the size, empty for whole cards and default slices."""
    ask: _Ask


def project_of(pod: wire.Pod) -> str:
    """Whom the pod's GPU time is booked on: its project label, else its namespace."""
    return pod.metadata.labels.get(names.LABEL_PROJECT) or pod.metadata.namespace or "default"


def request_of(pod: wire.Pod) -> GpuRequest | None:
    """The accelerator demand of a pod, None for a pod that asks for none. Raises RequestError."""
    main = [_amounts(pod.key, container) for container in pod.spec.containers]
    init = [_amounts(pod.key, container) for container in pod.spec.init_containers]
    asking = [amounts for amounts in (*main, *init) if amounts is not None]
    if not asking:
        return None
    device, sized_by = _common_dialect(pod.key, asking)
    add = _add_devices if device else _add_on_same_cards
    empty = _Ask()
    sidecars = peak = empty
    for container, amounts in zip(pod.spec.init_containers, init, strict=True):
        ask = amounts.ask if amounts else empty
        if container.restart_policy == "Always":
            sidecars = add(sidecars, ask)
        else:
            peak = _larger(peak, add(sidecars, ask))
    running = sidecars
    for amounts in main:
        running = add(running, amounts.ask if amounts else empty)
    total = _larger(peak, running)
    in_thousandths = sized_by in _IN_THOUSANDTHS
    _check_extent(pod.key, device, sized_by, total)
    cpu_milli, memory_mib = host_demand(pod)
    most_at_once = max(amounts.ask.devices for amounts in asking)
    return GpuRequest(
        count=total.devices,
        mode=Mode.SLICE if device else Mode.PINNED,
        vram_mib=0 if in_thousandths else total.size,
        milli=total.size if in_thousandths else 0,
        resource=device,
        cpu_milli=cpu_milli,
        memory_mib=memory_mib,
        models=_models(pod, device),
        one_device_each=bool(device) and total.devices > 1 and most_at_once == 1,
    )


def _check_extent(pod: str, device: str, sized_by: str, total: _Ask) -> None:
    """Raise RequestError for a total that no node could ever meet."""
    if total.devices > MOST_SHARES:
        resource = device or names.RESOURCE_GPU
        raise RequestError(pod, "", resource, str(total.devices), f"more than {MOST_SHARES} cards or slices")
    if sized_by in _IN_THOUSANDTHS and total.size > WHOLE_MILLI:
        reason = "the containers together ask for more than one whole card"
        raise RequestError(pod, "", sized_by, str(total.size), reason)
    if total.size > LARGEST_MIB:
        raise RequestError(pod, "", sized_by, f"{total.size} MiB", "no card has as much")


def demand_of(pod: wire.Pod) -> GpuRequest:
    """Like `request_of`, with a request of no cards (`count` 0) for a pod that needs only CPU and host memory."""
    request = request_of(pod)
    if request is not None:
        return request
    cpu_milli, memory_mib = host_demand(pod)
    return GpuRequest(count=0, cpu_milli=cpu_milli, memory_mib=memory_mib)


class _Reader:
    """Reads one container's accelerator resources, and says where it was when something is wrong."""

    def __init__(self, pod: str, container: wire.Container) -> None:
        self._pod, self._container = pod, container
        limits, requests = container.resources.limits, container.resources.requests
        self._texts: dict[str, str] = {}
        for name in (*limits, *requests):
            if name in _KNOWN:
                limit, request = limits.get(name), requests.get(name)
                self._texts[name] = str(request if limit is None else limit)
                if (
                    limit is not None
                    and request is not None
                    and self._quantity(str(request), name) != self._quantity(str(limit), name)
                ):
                    raise self.fault(name, f"limit {limit}, request {request}", "the two must be equal")
            elif name.startswith(_OWN_PREFIX):
                raise self.fault(name, str(limits.get(name, requests.get(name))), "no such resource")
        self.above_zero = [name for name, text in self._texts.items() if self._quantity(text, name) > 0]

    def fault(self, resource: str, value: str, reason: str) -> RequestError:
        return RequestError(self._pod, self._container.name, resource, value, reason)

    def fault_between(self, resources: Iterable[str], reason: str) -> RequestError:
        resources = list(resources)
        return self.fault(" and ".join(resources), " and ".join(self._texts[name] for name in resources), reason)

    def _quantity(self, text: str, resource: str) -> Fraction:
        try:
            amount = _parsed(text)
        except units.UnitError as error:
            raise self.fault(resource, text, "not a quantity") from error
        if amount < 0:
            raise self.fault(resource, text, "below zero")
        return amount

    def whole(self, resource: str) -> int:
        amount = self._quantity(self._texts[resource], resource)
        if amount.denominator != 1:
            raise self.fault(resource, self._texts[resource], "not a whole number")
        return int(amount)

    def size(self, resource: str) -> int:
        """MiB per device, or thousandths of a card for the resources that state a part of one."""
        if resource == names.RESOURCE_VRAM:
            return -int(-self._quantity(self._texts[resource], resource) // units.MIB)
        amount = self.whole(resource)
        if resource == names.RESOURCE_GPUSHARE_MEMORY:
            return amount * 1024
        if resource == names.RESOURCE_HAMI_MEMORY:
            return amount
        milli = amount * 10 if resource == names.RESOURCE_HAMI_MEMORY_PERCENT else amount
        if milli > WHOLE_MILLI:
            raise self.fault(resource, self._texts[resource], "more than one whole card")
        return milli


def _amounts(pod: str, container: wire.Container) -> _Amounts | None:
    if not (container.resources.limits or container.resources.requests):
        return None
    reader = _Reader(pod, container)
    devices = [name for name in reader.above_zero if name in BY_RESOURCE]
    sizes = [name for name in reader.above_zero if name in _SIZES]
    if len(devices) > 1:
        raise reader.fault_between(devices, "a pod may ask for one kind of device")
    if len(sizes) > 1:
        raise reader.fault_between(sizes, "the size may be stated in one way only")
    device, size = (devices or [""])[0], (sizes or [""])[0]
    if device and size and not BY_RESOURCE[device].shareable:
        raise reader.fault_between((device, size), f"{BY_RESOURCE[device].vendor} devices go out whole")
    pinned = names.RESOURCE_GPU if names.RESOURCE_GPU in reader.above_zero else ""
    if device and pinned:
        raise reader.fault_between((device, pinned), "either the device plugin picks the cards, or Headroom does")
    counted = device or pinned
    if counted and size == names.RESOURCE_GPUSHARE_MEMORY:
        raise reader.fault_between((counted, size), "gpu-mem is one card's memory, with no device beside it")
    if not (counted or size):
        return None
    return _Amounts(device, size, _Ask(reader.whole(counted) if counted else 1, reader.size(size) if size else 0))


def _common_dialect(pod: str, asking: list[_Amounts]) -> tuple[str, str]:
    """The device and size resource that all containers agree on."""
    kinds = {(amounts.device, amounts.sized_by) for amounts in asking}
    if len(kinds) > 1:
        spelt = sorted(" with ".join(filter(None, kind)) or names.RESOURCE_GPU for kind in kinds)
        raise RequestError(pod, "", " and ".join(spelt), "mixed", "all containers of a pod must ask in the same way")
    return kinds.pop()


def _add_devices(one: _Ask, other: _Ask) -> _Ask:
    return _Ask(one.devices + other.devices, max(one.size, other.size))


def _add_on_same_cards(one: _Ask, other: _Ask) -> _Ask:
    return _Ask(max(one.devices, other.devices), one.size + other.size)


def _larger(one: _Ask, other: _Ask) -> _Ask:
    return _Ask(max(one.devices, other.devices), max(one.size, other.size))


def _models(pod: wire.Pod, device: str) -> frozenset[str]:
    """Card models that the node selector and the required node affinity admit; empty means any.

    Only `In` is read: every other operator is still judged by kube-scheduler itself, on the node's labels.
    """
    labels = BY_RESOURCE.get(device, NVIDIA).product_labels
    admitted: frozenset[str] | None = None
    for label in labels:
        if label in pod.spec.node_selector:
            admitted = _both(admitted, frozenset({plain_model(pod.spec.node_selector[label])}))
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    if affinity and affinity.required:
        by_term = [_models_of_term(term, labels) for term in affinity.required.node_selector_terms]
        if by_term and None not in by_term:
            admitted = _both(admitted, frozenset().union(*(models for models in by_term if models)))
    if admitted is None:
        return frozenset()
    if not admitted:
        raise RequestError(
            pod.key, "", labels[0], "no model", "node selector and node affinity exclude every card model"
        )
    return admitted


def _models_of_term(term: wire.NodeSelectorTerm, labels: Iterable[str]) -> frozenset[str] | None:
    admitted: frozenset[str] | None = None
    for rule in term.match_expressions:
        if rule.key in labels and rule.operator == "In":
            admitted = _both(admitted, frozenset(plain_model(value) for value in rule.values))
    return admitted


def _both(one: frozenset[str] | None, other: frozenset[str]) -> frozenset[str]:
    return other if one is None else one & other


def host_demand(pod: wire.Pod) -> tuple[int, int]:
    """CPU (thousandths) and host memory (MiB) that a pod requests, overhead included. Raises RequestError."""
    key, spec = pod.key, pod.spec
    sidecars = peak = (0, 0)
    for container in spec.init_containers:
        asked = _host(key, container.name, container.resources)
        if container.restart_policy == "Always":
            sidecars = _plus(sidecars, asked)
            asked = (0, 0)
        cpu, memory = _plus(sidecars, asked)
        peak = max(peak[0], cpu), max(peak[1], memory)
    running = sidecars
    for container in spec.containers:
        running = _plus(running, _host(key, container.name, container.resources))
    total = max(peak[0], running[0]), max(peak[1], running[1])
    if spec.resources is not None:
        cpu, memory = _host(key, "", spec.resources)
        total = cpu or total[0], memory or total[1]
    if spec.overhead:
        total = _plus(total, _host(key, "", wire.Resources(requests=spec.overhead)))
    return total


def _plus(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]


def _host(pod: str, container: str, resources: wire.Resources) -> tuple[int, int]:
    """CPU and memory of one container; a limit stands for a request that is not there, as the API server has it."""
    amounts = []
    for resource, read in (("cpu", _cpu_milli), ("memory", _memory_mib)):
        value = resources.requests.get(resource, resources.limits.get(resource))
        try:
            amount = 0 if value is None else read(str(value))
        except units.UnitError as error:
            raise RequestError(pod, container, resource, str(value), "not a quantity") from error
        if amount < 0:
            raise RequestError(pod, container, resource, str(value), "below zero")
        amounts.append(min(amount, LARGEST_HOST))
    return amounts[0], amounts[1]


# The same few quantities come back in pod after pod.
_parsed = lru_cache(maxsize=1024)(units.parse_quantity)
_cpu_milli = lru_cache(maxsize=1024)(units.quantity_to_milli)
_memory_mib = lru_cache(maxsize=1024)(units.quantity_to_mib)

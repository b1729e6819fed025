"""What a pod asks for: from the resources, selectors and labels of a pod to a GpuRequest, in every dialect. Pure.

Amounts are folded over containers as Kubernetes does (kubernetes.io/docs/concepts/workloads/pods/sidecar-containers):
ordinary containers and sidecars add up, an ordinary init container counts together with the sidecars started before it,
and the larger of the two is what the pod holds for life. Memory differs by who picks the card:

- with a device resource (`nvidia.com/gpu`), every container gets devices of its own, so counts add and the largest size
  per device counts for each;
- without one, all containers see the card or cards that Headroom picks (`headroom.dev/gpu` says how many), so sizes add on
  them and the largest count holds.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Final, NamedTuple

from headroom import names, units, wire
from headroom.domain.accelerators import BY_RESOURCE, NVIDIA
from headroom.domain.card_models import plain_model
from headroom.domain.dialects import kai
from headroom.domain.dialects.customs import USUAL, Customs
from headroom.domain.dialects.table import ANNOTATIONS, COMPANIONS, COUNTS, READ, SIZES
from headroom.domain.dialects.words import Count, Size, Unit, Wishes, WordError
from headroom.domain.model import LARGEST_HOST, LARGEST_MIB, MOST_SHARES, WHOLE_MILLI, GpuRequest, Mode, Order
from headroom.errors import HeadroomError

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


NO_WISHES: Final = Wishes()


def project_of(pod: wire.Pod) -> str:
    """Whom the pod's GPU time is booked on: its project label, else its namespace."""
    return pod.metadata.labels.get(names.LABEL_PROJECT) or pod.metadata.namespace or "default"


def request_of(pod: wire.Pod, customs: Customs = USUAL) -> GpuRequest | None:
    """The accelerator demand of a pod, None for a pod that asks for none. Raises RequestError."""
    main = [_amounts(pod.key, container, customs) for container in pod.spec.containers]
    init = [_amounts(pod.key, container, customs) for container in pod.spec.init_containers]
    asking = [amounts for amounts in (*main, *init) if amounts is not None]
    if not asking:
        _refuse_unseen_annotations(pod)
        return None
    device, sized_by = _common_dialect(pod.key, asking)
    total = _folded(pod, main, init, _add_devices if device else _add_on_same_cards)
    in_thousandths = sized_by in SIZES and SIZES[sized_by].in_thousandths
    _check_extent(pod.key, device, sized_by, total)
    cpu_milli, memory_mib = host_demand(pod)
    most_at_once = max(amounts.ask.devices for amounts in asking)
    # What a bound pod would have liked is over.
    wishes = NO_WISHES if pod.spec.node_name else _wishes(pod)
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
        choice=None if wishes.choice == NO_WISHES.choice else wishes.choice,
        order=wishes.order,
        on_cordoned=not pod.spec.node_name and any(each.tolerates(wire.CORDON) for each in pod.spec.tolerations),
    )


def _folded(
    pod: wire.Pod,
    main: Sequence[_Amounts | None],
    init: Sequence[_Amounts | None],
    add: Callable[[_Ask, _Ask], _Ask],
) -> _Ask:
    """What the pod holds for life; see the module."""
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
    return _larger(peak, running)


def _refuse_unseen_annotations(pod: wire.Pod) -> None:
    """Raise RequestError for a pod that asks by annotations which the admission policy should have turned into resources."""
    if pod.spec.node_name or pod.spec.scheduler_name in kai.SCHEDULERS:
        return
    for word in kai.KAI.annotations:
        value = pod.metadata.annotations.get(word.name)
        if value is not None:
            reason = f"Headroom's admission policy, which turns it into {word.resource}, has not seen this pod"
            raise RequestError(pod.key, "", f"annotation {word.name}", value, reason)


def _wishes(pod: wire.Pod) -> Wishes:
    """What the annotations say of the cards. Raises RequestError."""
    annotations, wishes = pod.metadata.annotations, NO_WISHES
    for name in sorted(annotations.keys() & ANNOTATIONS.keys()):
        read = ANNOTATIONS[name].read
        if read is not None:
            try:
                wishes = read(wishes, annotations[name].strip())
            except WordError as error:
                raise RequestError(pod.key, "", f"annotation {name}", annotations[name], str(error)) from error
    return wishes


def _check_extent(pod: str, device: str, sized_by: str, total: _Ask) -> None:
    """Raise RequestError for a total that no node could ever meet."""
    if total.devices > MOST_SHARES:
        resource = device or names.RESOURCE_GPU
        raise RequestError(pod, "", resource, str(total.devices), f"more than {MOST_SHARES} cards or slices")
    if sized_by in SIZES and SIZES[sized_by].in_thousandths and total.size > WHOLE_MILLI:
        reason = "the containers together ask for more than one whole card"
        raise RequestError(pod, "", sized_by, str(total.size), reason)
    if total.size > LARGEST_MIB:
        raise RequestError(pod, "", sized_by, f"{total.size} MiB", "no card has as much")


def demand_of(pod: wire.Pod, customs: Customs = USUAL) -> GpuRequest:
    """Like `request_of`, with a request of no cards (`count` 0) for a pod that needs only CPU and host memory."""
    request = request_of(pod, customs)
    if request is not None:
        return request
    cpu_milli, memory_mib = host_demand(pod)
    return GpuRequest(count=0, cpu_milli=cpu_milli, memory_mib=memory_mib)


def ignored_words(pod: wire.Pod, request: GpuRequest) -> tuple[str, ...]:
    """What is written on a pod that asks for cards and has no effect, with the reason, in a stable order."""
    if request.count == 0:
        return ()
    found = {
        f"{name}: {amount}: {COMPANIONS[name].why}"
        for container in (*pod.spec.containers, *pod.spec.init_containers)
        for name, amount in {**container.resources.requests, **container.resources.limits}.items()
        if name in COMPANIONS and str(amount) != "0"
    }
    for name, value in pod.metadata.annotations.items():
        if name in READ:
            found.add(f"annotation {name}: {value}: it belongs under resources.limits of a container")
        elif name in ANNOTATIONS and ANNOTATIONS[name].ignored and value not in ("", "false"):
            found.add(f"annotation {name}: {value}: {ANNOTATIONS[name].ignored}")
    if request.mode is Mode.SLICE and Order.SPREAD_CARDS in request.order:
        found.add("annotation hami.io/gpu-scheduler-policy: spread: the device plugin picks the card")
    return tuple(sorted(found))


class _Reader:
    """Reads one container's accelerator resources, and says where it was when something is wrong."""

    def __init__(self, pod: str, container: wire.Container) -> None:
        self._pod, self._container = pod, container
        limits, requests = container.resources.limits, container.resources.requests
        self._texts: dict[str, str] = {}
        for name in (*limits, *requests):
            if name in READ:
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

    def only(self, resources: list[str], reason: str) -> str:
        """The one resource of the list, empty for none. Raises RequestError with the reason for several."""
        if len(resources) > 1:
            raise self.fault_between(resources, reason)
        return resources[0] if resources else ""

    def alone(self, resource: str, reason: str) -> RequestError:
        """An error about one resource's value."""
        return self.fault(resource, self._texts[resource], reason)

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

    def size(self, word: Size, customs: Customs) -> int:
        """MiB per device, or thousandths of a card for the resources that state a part of one."""
        if word.unit is Unit.BYTES:
            return -int(-self._quantity(self._texts[word.name], word.name) // units.MIB)
        amount = self.whole(word.name)
        if word.unit is Unit.GPUSHARE:
            unit_mib = customs.gpushare_unit_of(amount)
            if not unit_mib:
                raise self.alone(
                    word.name, "some nodes count it in GiB and some in MiB: --gpushare-unit says which it is"
                )
            return amount * unit_mib
        if not word.in_thousandths:
            return amount
        milli = amount * 10 if word.unit is Unit.PERCENT else amount
        if milli > WHOLE_MILLI:
            raise self.fault(word.name, self._texts[word.name], "more than one whole card")
        return milli


def _amounts(pod: str, container: wire.Container, customs: Customs) -> _Amounts | None:
    if not (container.resources.limits or container.resources.requests):
        return None
    reader = _Reader(pod, container)
    asked = reader.above_zero
    device = reader.only([name for name in asked if name in BY_RESOURCE], "a pod may ask for one kind of device")
    size = reader.only([name for name in asked if name in SIZES], "the size may be stated in one way only")
    count = reader.only([name for name in asked if name in COUNTS], "cards may be counted in one way only")
    if device and size and not BY_RESOURCE[device].shareable:
        raise reader.fault_between((device, size), f"{BY_RESOURCE[device].vendor} devices go out whole")
    if device and count:
        raise reader.fault_between((device, count), "either the device plugin picks the cards, or Headroom does")
    if device and size and SIZES[size].alone:
        raise reader.fault_between((device, size), SIZES[size].alone)
    if count:
        _check_count(reader, COUNTS[count], size)
    counted = device or count
    if counted or size:
        ask = _Ask(reader.whole(counted) if counted else 1, reader.size(SIZES[size], customs) if size else 0)
        return _Amounts(device, size, ask)
    if any(name in COMPANIONS and COMPANIONS[name].implies_card for name in asked):
        return _Amounts("", "", _Ask(1))
    return None


def _check_count(reader: _Reader, count: Count, size: str) -> None:
    """Raise RequestError for a number of cards with a size that it does not go with."""
    if not size and count.needs_size:
        raise reader.alone(count.name, f"it counts the cards of {' or '.join(sorted(count.sizes or ()))}")
    if size and (size not in count.sizes if count.sizes is not None else SIZES[size].alone):
        reason = SIZES[size].alone or f"it goes with {' or '.join(sorted(count.sizes or ()))}"
        raise reader.fault_between((count.name, size), reason)


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

"""Which extended resource a device serves: the DeviceClasses that map one, and what their selectors say. Pure.

A selector is an expression in CEL. Read are comparisons of the driver and of an attribute with a constant, joined by `&&`, which is what
drivers ship. Of anything else a device may be meant: kube-scheduler evaluates it before it asks Headroom about a node, so what
counts here is to leave no device out that it could pick.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from headroom.domain.accelerators import BY_RESOURCE, NVIDIA
from headroom.domain.dra.devices import Device
from headroom.domain.dra.objects import DeviceClass

NVIDIA_DRIVER: Final = "gpu.nvidia.com"

_QUOTED: Final = r"""(?:'([^'\\]*)'|"([^"\\]*)")"""
_DRIVER: Final = re.compile(rf"device\.driver\s*==\s*{_QUOTED}")
_ATTRIBUTE: Final = re.compile(rf"device\.attributes\[{_QUOTED}\]\.(\w+)\s*==\s*(?:{_QUOTED}|(true|false|\d+))")
_WORDS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison: of the driver where `attribute` is empty, else of an attribute of `domain`."""

    domain: str
    attribute: str
    value: str | int | bool

    def rules_out(self, device: Device) -> bool:
        """Whether the device cannot be meant."""
        if not self.attribute:
            return device.key.driver != self.value
        known = device.attributes.get(f"{self.domain}/{self.attribute}")
        if known is None and self.domain == device.key.driver:
            known = device.attributes.get(self.attribute)
        return known is not None and known != self.value


@dataclass(frozen=True, slots=True)
class Class:
    """A DeviceClass."""

    name: str
    resource: str
    created: str
    conditions: tuple[Condition, ...]

    def may_mean(self, device: Device) -> bool:
        """Whether the class may select the device."""
        return not any(condition.rules_out(device) for condition in self.conditions)

    @property
    def drivers(self) -> frozenset[str]:
        """Drivers to which it limits itself; empty for any."""
        return frozenset(str(each.value) for each in self.conditions if not each.attribute)


def read_class(published: DeviceClass) -> Class:
    """Take a DeviceClass in."""
    expressions = [selector.cel.expression for selector in published.spec.selectors if selector.cel is not None]
    return Class(
        published.metadata.name,
        published.spec.extended_resource_name,
        published.metadata.creation_timestamp or "",
        tuple(condition for expression in expressions for condition in _conditions(expression)),
    )


@lru_cache(maxsize=1024)
def _conditions(expression: str) -> tuple[Condition, ...]:
    return tuple(filter(None, map(_condition, _conjuncts(expression))))


def _condition(text: str) -> Condition | None:
    if (match := _DRIVER.fullmatch(text)) is not None:
        return Condition("", "", match[1] or match[2] or "")
    if (match := _ATTRIBUTE.fullmatch(text)) is None:
        return None
    plain = match[6]
    value = (match[4] or match[5] or "") if plain is None else _WORDS.get(plain, plain)
    return Condition(
        match[1] or match[2] or "", match[3], int(value) if plain is not None and plain.isdigit() else value
    )


def _conjuncts(expression: str) -> list[str]:
    """The parts that must all hold; none where the expression is no plain conjunction."""
    parts, depth, quote, start = [], 0, "", 0
    for at, sign in enumerate(expression):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
        elif depth == 0 and (sign == "?" or expression.startswith("||", at)):
            return []
        elif depth == 0 and expression.startswith("&&", at):
            parts.append(expression[start:at])
            start = at + 2
    return [part.strip() for part in (*parts, expression[start:])]


def is_nvidia(device: Device) -> bool:
    """Whether the device is a card of NVIDIA's, or a part of one."""
    return device.key.driver == NVIDIA_DRIVER or any(
        each.startswith(NVIDIA.ids) for each in (device.uuid, device.parent)
    )


class Classes:
    """The DeviceClasses of the cluster."""

    def __init__(self) -> None:
        self._all: dict[str, Class] = {}
        self._serving: dict[str, Class] = {}
        """By extended resource of a kind of accelerator."""

    def apply(self, name: str, now: Class | None) -> bool:
        """Take in a class, or its end; whether another serves some resource since."""
        before = dict(self._serving)
        if now is None:
            self._all.pop(name, None)
        else:
            self._all[name] = now
        self._serving = {}
        # As kube-scheduler does it (extendedresourcecache.go): of two the newer, of equally old ones the lower name.
        for each in sorted(
            sorted(self._all.values(), key=lambda each: each.name, reverse=True), key=lambda each: each.created
        ):
            if each.resource in BY_RESOURCE:
                self._serving[each.resource] = each
        return self._serving != before

    def resource_of(self, device: Device) -> str:
        """The extended resource that the device serves; empty where none that Headroom knows."""
        return next((resource for resource, each in self._serving.items() if each.may_mean(device)), "")

    def is_card(self, device: Device) -> bool:
        """Whether the device is an accelerator."""
        return is_nvidia(device) or bool(self.resource_of(device))

    def drivers(self) -> Iterator[str]:
        """Drivers that are known to publish accelerators, by what they or the classes are called."""
        yield NVIDIA_DRIVER
        for each in self._serving.values():
            yield from each.drivers

    def cls(self, name: str) -> Class | None:
        """A class by its name."""
        return self._all.get(name)

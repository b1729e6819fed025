"""The nodes that kube-scheduler asks about, and answers in the same form.

It sends either a list of names (`nodeCacheCapable`) or whole Node objects, and takes only nodes back that it sent. The list of
names stays undecoded as long as possible: at 5,000 nodes, decoding it costs more than the decision.
"""

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, Final

import msgspec

from headroom import wire
from headroom.wire import Wire, WireError
from scheduler.verbs import protocol

_SHORT: Final = 2048  # bytes; below this, decoding the list costs less than looking names up in it


class _Named(Wire):
    metadata: wire.Meta


class _RawNodes(Wire):
    items: list[msgspec.Raw] = msgspec.field(default_factory=list)


_NAMED: Final = wire.Decoder(_Named)
_RAW_NODES: Final = wire.Decoder(_RawNodes)


class Offer:
    """Nodes offered by name. Raises WireError where the list is not one of names."""

    def __init__(self, names_json: bytes) -> None:
        self._json = names_json

    @property
    def short(self) -> bool:
        """Whether the names are few enough to be decoded first."""
        return len(self._json) <= _SHORT

    def has(self, name: str) -> bool:
        """Whether a node is offered. Node names are DNS names: their JSON form is the name in quotes."""
        if "names" in self.__dict__:
            return name in self._known
        return b'"%b"' % name.encode() in self._json

    @cached_property
    def names(self) -> list[str]:
        """Every name, in the order sent."""
        return protocol.NAMES.decode(self._json)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    def everything(self) -> bytes:
        """The answer that keeps all nodes."""
        return b'{"NodeNames":%b}' % self._json

    def only(self, name: str) -> bytes:
        """The answer that keeps one node and says nothing of the others: kube-scheduler drops them without a reason."""
        return b'{"NodeNames":["%b"]}' % name.encode()

    def answer(self, names: Collection[str], refused: Mapping[str, str]) -> bytes:
        """The answer that keeps `names` and refuses others with a reason each."""
        return wire.encode({"NodeNames": list(names), "FailedAndUnresolvableNodes": refused})


class WholeOffer(Offer):
    """Nodes offered as whole objects, which go back as they came."""

    def __init__(self, nodes_json: bytes) -> None:
        super().__init__(b"[]")
        self._nodes_json = nodes_json
        self._items = {_NAMED.decode(item).metadata.name: item for item in _RAW_NODES.decode(nodes_json).items}

    @cached_property
    def names(self) -> list[str]:
        return list(self._items)

    def has(self, name: str) -> bool:
        return name in self._items

    @property
    def short(self) -> bool:
        return True

    def everything(self) -> bytes:
        return b'{"Nodes":%b}' % self._nodes_json

    def only(self, name: str) -> bytes:
        return self.answer([name], {})

    def answer(self, names: Collection[str], refused: Mapping[str, str]) -> bytes:
        body: dict[str, Any] = {"Nodes": {"items": [self._items[name] for name in names]}}
        return wire.encode(body | {"FailedAndUnresolvableNodes": refused})


def offer_of(args: protocol.ExtenderArgs) -> Offer:
    """The offer in a request. Raises WireError when it names nodes in neither way."""
    names_json = args.node_names_json
    if names_json is not None:
        if names_json[:1] != b"[":
            raise WireError("ExtenderArgs: NodeNames is not a list of names")
        return Offer(names_json)
    nodes_json = args.nodes_json
    if nodes_json is not None:
        return WholeOffer(nodes_json)
    raise WireError("ExtenderArgs: neither NodeNames nor Nodes is given")

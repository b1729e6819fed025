"""The messages between kube-scheduler and its extender.

kube-scheduler writes Go field names (`NodeNames`); readers must take any case, as Go itself does.
"""

from typing import Final

import msgspec

from headroom.wire import Decoder, Pod, T, Wire, WireError

_SHORT: Final = 4096
_NAMES_KEY: Final = b'"NodeNames":['
_NO_NAMES: Final = b'"NodeNames":null}'


class ExtenderArgs(Wire, rename="pascal"):
    """Body of filter and prioritize. kube-scheduler fills one of the two lists and sends null for the other."""

    pod: Pod
    nodes: msgspec.Raw = msgspec.Raw(b"null")
    node_names: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def node_names_json(self) -> bytes | None:
        """The JSON list of node names as it came, None where there is none.

        Left undecoded: at 5,000 nodes, decoding the list costs more than the decision itself. `NAMES` decodes it.
        """
        return _unless_null(self.node_names)

    @property
    def nodes_json(self) -> bytes | None:
        """The JSON NodeList of whole nodes as it came (without nodeCacheCapable), None where there is none."""
        return _unless_null(self.nodes)


class BindingArgs(Wire, rename="pascal"):
    """Body of bind."""

    pod_name: str
    pod_namespace: str
    pod_uid: str = msgspec.field(name="PodUID")
    node: str


class HostPriority(Wire, rename="pascal", omit_defaults=False):
    """One entry of the answer to prioritize; 0 to 10 before kube-scheduler multiplies by the extender's weight."""

    host: str
    score: int


class BindingResult(Wire, rename="pascal"):
    """Answer to bind; no error means bound."""

    error: str = ""


class ExtenderDecoder(Decoder[T]):
    """A decoder that takes the top level's keys in any case, as Go's JSON decoder does."""

    def __init__(self, kind: type[T]) -> None:
        super().__init__(kind)
        self._spelling = {name.lower(): name for name in kind.__struct_encode_fields__}  # type: ignore[attr-defined]

    def decode(self, data: bytes | bytearray | msgspec.Raw) -> T:
        """One message; a body in kube-scheduler's own spelling is decoded once, any other a second time."""
        try:
            return super().decode(data)
        except WireError as error:
            if "missing required field" not in str(error):
                raise
            fields = _FIELDS.decode(data)
            respelled = {self._spelling.get(key.lower(), key): value for key, value in fields.items()}
            if respelled.keys() == fields.keys():
                raise
        return super().decode(msgspec.json.encode(respelled))


class ArgsDecoder(ExtenderDecoder[ExtenderArgs]):
    """Decodes ExtenderArgs; the list of names at the end of a body, where kube-scheduler writes it, is cut off and not even looked through.

    At 5,000 nodes that is nine tenths of the body. What is no plain list is left to the ordinary way.
    """

    def __init__(self) -> None:
        super().__init__(ExtenderArgs)

    def decode(self, data: bytes | bytearray | msgspec.Raw) -> ExtenderArgs:
        """One message."""
        if isinstance(data, bytes) and len(data) > _SHORT:
            start = data.find(_NAMES_KEY)
            end = data.find(b"]", start)
            # No bracket but the last: then this is the only NodeNames, and nothing follows it.
            if start > 0 and data[end:] == b"]}":
                args = super().decode(data[:start] + _NO_NAMES)
                args.node_names = msgspec.Raw(data[start + len(_NAMES_KEY) - 1 : -1])
                return args
        return super().decode(data)


def _unless_null(raw: msgspec.Raw) -> bytes | None:
    data = bytes(raw)
    return None if data == b"null" else data


_FIELDS: Final = Decoder(dict[str, msgspec.Raw])


NAMES: Final = Decoder(list[str])


EXTENDER_ARGS: Final = ArgsDecoder()


BINDING_ARGS: Final = ExtenderDecoder(BindingArgs)

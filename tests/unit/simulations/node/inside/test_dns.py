"""Names of Services: questions as the C library asks them."""

import struct

import pytest

from simulations.node.inside.dns import answer, question

SERVICES = {"default/kubernetes": "10.96.0.1"}


def ask(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return b"\x12\x34" + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def test_a_service_has_its_address() -> None:
    reply = answer(ask("kubernetes.default.svc.cluster.local"), SERVICES)
    assert reply[:2] == b"\x12\x34"
    assert reply[-4:] == bytes([10, 96, 0, 1])
    assert struct.unpack("!H", reply[6:8]) == (1,)


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        pytest.param(
            "kubernetes.default.svc.cluster.local", 28, 0, id="no address of version 6, but the name is known"
        ),
        pytest.param("nobody.default.svc.cluster.local", 1, 3, id="no such name"),
        pytest.param("kubernetes.default", 1, 3, id="the search list adds the rest"),
    ],
)
def test_no_address(name: str, kind: int, code: int) -> None:
    reply = answer(ask(name, kind), SERVICES)
    assert struct.unpack("!HHH", reply[2:8]) == (0x8580 | code, 1, 0)


def test_what_is_no_question_is_an_error() -> None:
    with pytest.raises(IndexError):
        question(b"\0" * 12)

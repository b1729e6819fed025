"""The list of names is cut off a body unread, where it is the plain list that kube-scheduler writes, and nowhere else."""

import json
from typing import Any

import pytest

from headroom.wire import WireError
from scheduler.verbs.protocol import EXTENDER_ARGS, ExtenderArgs, ExtenderDecoder
from tests.fakes.extender import pod

NAMES = [f"node-{at:04d}" for at in range(1000)]
LIST = json.dumps(NAMES, separators=(",", ":")).encode()
POD = json.dumps({**pod("p", vram="1Gi"), "metadata": {"name": "p", "uid": "u"}}, separators=(",", ":")).encode()
TRICKY = json.dumps({"metadata": {"name": 'x"NodeNames":["a"]}', "annotations": {"a": '"NodeNames":["b"]}'}}}).encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"Pod":%b,"Nodes":null,"NodeNames":%b}' % (POD, LIST), id="as kube-scheduler writes it"),
        pytest.param(b'{"Pod":%b,"NodeNames":%b,"Nodes":null}' % (POD, LIST), id="names in the middle"),
        pytest.param(b'{"NodeNames":%b,"Pod":%b}' % (LIST, POD), id="names first"),
        pytest.param(b'{"Pod":%b,"Nodes":null,"NodeNames": %b }' % (POD, LIST), id="with spaces"),
        pytest.param(b'{"pod":%b,"nodes":null,"nodenames":%b}' % (POD, LIST), id="in lower case"),
        pytest.param(b'{"Pod":%b,"Nodes":null,"NodeNames":%b}' % (TRICKY, LIST), id="names that are none in texts"),
        pytest.param(
            b'{"Pod":{"metadata":{"name":"p"},"x":{"NodeNames":["a"]}},"NodeNames":%b}' % LIST, id="a list before it"
        ),
        pytest.param(b'{"NodeNames":%b,"Pod":{"x":{"NodeNames":["a"]}}}' % LIST, id="a list after it"),
        pytest.param(b'{"Pod":{"x":{"NodeNames":%b}},"NodeNames":["a"]}' % LIST, id="a longer list within the pod"),
        pytest.param(b'{"Pod":{"spec":null},"Nodes":null,"NodeNames":%b}' % LIST, id="with a null"),
        pytest.param(b'{"Pod":%b,"Nodes":{"items":[]},"NodeNames":null,"x":%b}' % (POD, LIST), id="no names"),
    ],
)
def test_a_body_means_the_same_as_decoded_whole(body: Any) -> None:
    assert len(body) > 4096
    fast, plain = EXTENDER_ARGS.decode(body), ExtenderDecoder(ExtenderArgs).decode(body)
    assert fast.pod == plain.pod
    assert fast.node_names_json == plain.node_names_json
    assert fast.nodes_json == plain.nodes_json


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"Pod":[],"Nodes":null,"NodeNames":%b}' % LIST, id="a pod that is a list"),
        pytest.param(b'{"Nodes":null,"NodeNames":%b}' % LIST, id="no pod"),
        pytest.param(b'{"Pod":%b,"Nodes":null,"NodeNames":%b' % (POD, LIST), id="cut short"),
        pytest.param(b'{"Pod":%b,"Nodes":null,"NodeNames":%b' % (POD, LIST[:-1]), id="cut short in the list"),
        pytest.param(b'{"Pod":%b,"Nodes":{"NodeNames":%b}' % (POD, LIST), id="a brace too few"),
        pytest.param(b'{"Pod":%b,"Nodes":null,"NodeNames":%b}}' % (POD, LIST), id="a brace too many"),
    ],
)
def test_a_body_that_cannot_be_understood_is_refused_all_the_same(body: Any) -> None:
    for decoder in (EXTENDER_ARGS, ExtenderDecoder(ExtenderArgs)):
        with pytest.raises(WireError, match="ExtenderArgs"):
            decoder.decode(body)

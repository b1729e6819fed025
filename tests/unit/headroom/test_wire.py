"""Messages of Kubernetes and of kube-scheduler, well and badly formed."""

import json

import pytest

from headroom import wire
from scheduler.verbs import protocol

FILTER = {
    "Pod": {
        "metadata": {"name": "a", "namespace": "ns", "uid": "u", "creationTimestamp": None},
        "spec": {},
        "status": {},
    },
    "Nodes": None,
    "NodeNames": ["n0", "n1"],
}


def body(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("spelling", [str, str.lower, str.upper, lambda key: key[0].lower() + key[1:]])
def test_extender_messages_come_in_any_case(spelling: object) -> None:
    args = protocol.EXTENDER_ARGS.decode(body({spelling(key): value for key, value in FILTER.items()}))  # type: ignore[operator]
    assert args.pod.key == "ns/a"
    assert args.node_names_json is not None
    assert protocol.NAMES.decode(args.node_names_json) == ["n0", "n1"]
    assert args.nodes_json is None


def test_whole_nodes_instead_of_names() -> None:
    nodes = {"items": [{"metadata": {"name": "n0", "labels": None}}]}
    args = protocol.EXTENDER_ARGS.decode(body(FILTER | {"NodeNames": None, "Nodes": nodes}))
    assert args.node_names_json is None
    assert args.nodes_json is not None
    assert json.loads(args.nodes_json) == nodes


def test_names_are_left_undecoded_and_exact() -> None:
    args = protocol.EXTENDER_ARGS.decode(b'{"Pod":{},"NodeNames":["n0", "n1"],"Extra":[1,{"x":null}]}')
    assert args.node_names_json == b'["n0", "n1"]'


def test_bind_arguments() -> None:
    said = {"podname": "a", "PodNamespace": "ns", "podUID": "u", "Node": "n"}
    assert protocol.BINDING_ARGS.decode(body(said)) == protocol.BindingArgs(
        pod_name="a", pod_namespace="ns", pod_uid="u", node="n"
    )


def test_answers_are_spelt_as_go_spells_them() -> None:
    assert json.loads(wire.encode([protocol.HostPriority("n0", 0)])) == [{"Host": "n0", "Score": 0}]
    assert wire.encode(protocol.BindingResult()) == b"{}"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated"),
        (b'{"Pod": {"metadata"', "truncated"),
        (b"\xff\xfe", "malformed"),
        (b"null", "got `null`"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `Pod`"),
        (b'{"Pod": null}', "missing required field `Pod`"),
        (b'{"Pod": 7}', "at `$.Pod`"),
        (b'{"Pod": {"spec": {"priority": "high"}}}', "Expected `int`, got `str` - at `$.Pod.spec.priority`"),
        (b'{"pod": {"spec": {"priority": "high"}}}', "Expected `int`, got `str` - at `$.Pod.spec.priority`"),
        (b'{"Pod": {"spec": {"containers": [{"name": 1}]}}}', "at `$.Pod.spec.containers[0].name`"),
        (b'{"Pod": {"metadata": {"annotations": {"a": 1}}}}', "at `$.Pod.metadata.annotations[...]`"),
        (b'{"Pod": ' + b'{"spec":' * 100_000, "ExtenderArgs"),
        (b"[" * 100_000, "ExtenderArgs"),
    ],
)
def test_bad_messages_say_what_is_wrong(data: bytes, words: str) -> None:
    with pytest.raises(wire.WireError) as caught:
        protocol.EXTENDER_ARGS.decode(data)
    assert str(caught.value).startswith("ExtenderArgs: ")
    assert words in str(caught.value)


def test_go_writes_null_for_what_is_empty() -> None:
    pod = wire.POD.decode(
        body(
            {
                "metadata": {"name": "a", "labels": None, "annotations": {"keep": "me"}, "ownerReferences": None},
                "spec": {
                    "containers": [{"name": "c", "resources": {"limits": None, "requests": {"cpu": "1"}}}],
                    "initContainers": None,
                    "nodeSelector": None,
                    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": None}},
                },
                "status": None,
            }
        )
    )
    assert (pod.metadata.labels, pod.metadata.annotations) == ({}, {"keep": "me"})
    assert pod.spec.containers[0].resources.requests == {"cpu": "1"}
    assert list(wire.POD_LIST.decode(b'{"metadata": {"resourceVersion": "7"}, "items": null}').items) == []


def test_quantities_may_be_numbers() -> None:
    pod = wire.POD.decode(
        body({"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": 1, "cpu": 0.5}}}]}})
    )
    assert pod.spec.containers[0].resources.limits == {"nvidia.com/gpu": 1, "cpu": 0.5}


def test_a_pod_is_named_by_namespace_and_name() -> None:
    assert wire.Pod(metadata=wire.Meta(name="a")).key == "default/a"
    assert wire.Pod(metadata=wire.Meta(generate_name="web-", namespace="ns")).key == "ns/web-"


def test_decoded_objects_share_no_state() -> None:
    one, other = wire.POD.decode(b"{}"), wire.POD.decode(b"{}")
    one.metadata.labels["x"] = "y"
    one.spec.node_selector["x"] = "y"
    assert other == wire.Pod()

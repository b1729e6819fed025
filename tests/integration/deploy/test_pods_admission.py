"""The policies on what pods may say of themselves: assignments, visible cards, sizes. On a real API server, by account."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headroom import names
from simulations.kwok.cluster import Cluster
from tests.integration.deploy.caller import ADMIN, Caller
from tests.paths import DEPLOY

BASE = DEPLOY / "base"
POLICIES = ("admission-policy.yaml", "pods-admission.yaml")
SCHEDULER = "system:serviceaccount:headroom-system:headroom-scheduler"
AGENT = "system:serviceaccount:headroom-system:headroom-agent"
ASSIGNED = {
    "headroom.dev/assigned-cards": "GPU-n-0", "headroom.dev/assigned-vram-mib": "1", "headroom.dev/assigned-mode": "pinned",
    "headroom.dev/kubelet-cards": "GPU-n-0",
}  # fmt: skip
ONLY_HEADROOM = "only Headroom's scheduler and agent may set, change or remove headroom.dev/assigned-*"
MERGE = "application/merge-patch+json"


@pytest.fixture(scope="module")
def call(cluster: Cluster) -> Caller:
    return Caller(cluster)


@pytest.fixture(scope="module", autouse=True)
def policies(cluster: Cluster, call: Caller, wait_for_admission: Callable[[Cluster], None]) -> Iterator[None]:
    """The policies in force."""
    for name in POLICIES:
        cluster.apply(BASE / name)
    wait_for_admission(cluster)

    def in_force() -> bool:
        tiny = asking({"headroom.dev/vram": "18"})
        seen = env(NVIDIA_VISIBLE_DEVICES="all")
        refused = dry_run(call, "default", pod_with(tiny))[0] == 422
        code, pod, _ = dry_run(call, "default", pod_with(annotations=ASSIGNED))
        stripped = code == 201 and "annotations" not in pod["metadata"]
        return refused and stripped and bool(dry_run(call, "default", pod_with(seen))[2])

    cluster.wait_for(in_force, "the policies to be in force")
    yield
    for name in POLICIES:
        cluster.kubectl("delete", "-f", str(BASE / name), "--ignore-not-found")


def asking(limits: dict[str, str], name: str = "main", **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "server", "resources": {"limits": limits}, **fields}


def env(**variables: Any) -> dict[str, Any]:
    items = [
        {"name": name, "value": value} if isinstance(value, str) else {"name": name, "valueFrom": value}
        for name, value in variables.items()
    ]
    return {"name": "main", "image": "server", "env": items}


def pod_with(*containers: dict[str, Any], annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    meta = {"name": "pod", **({"annotations": annotations} if annotations else {})}
    return {"metadata": meta, "spec": {"containers": list(containers) or [{"name": "main", "image": "x"}], **spec}}


def dry_run(call: Caller, namespace: str, pod: dict[str, Any], user: str = ADMIN) -> tuple[int, Any, str]:
    return call("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod, user=user)


# 1. Assignments


@pytest.mark.parametrize(
    ("user", "kept"), [(ADMIN, False), ("system:serviceaccount:chat:builder", False), (SCHEDULER, True), (AGENT, True)]
)
def test_an_assignment_is_taken_off_a_new_pod(call: Caller, namespace: str, user: str, kept: bool) -> None:
    """Cases L06, L07, L08, K06, K14 (HAMi#987, #3041): an exported manifest, or one that was made to claim cards."""
    code, pod, _ = dry_run(call, namespace, pod_with(annotations=ASSIGNED | {"team": "chat"}), user)
    assert code == 201, pod
    assert pod["metadata"]["annotations"] == ({"team": "chat"} | (ASSIGNED if kept else {}))


def test_without_a_mutating_policy_a_new_pod_with_an_assignment_is_refused(
    cluster: Cluster, call: Caller, namespace: str
) -> None:
    cluster.kubectl("delete", "mutatingadmissionpolicybinding", "headroom-pods-without-assignment")
    try:
        cluster.wait_for(
            lambda: dry_run(call, namespace, pod_with(annotations=ASSIGNED))[0] == 403, "the policy to be gone"
        )
        _, status, _ = dry_run(call, namespace, pod_with(annotations=ASSIGNED))
        assert ONLY_HEADROOM in status["message"]
    finally:
        cluster.apply(BASE / "pods-admission.yaml")


@pytest.fixture
def placed(cluster: Cluster, call: Caller, namespace: str, gpu_nodes: Callable[..., None]) -> str:
    """A pod that the scheduler's account has bound with an assignment; its path."""
    path = f"/api/v1/namespaces/{namespace}/pods/pod"
    cluster.api.request("POST", path.rsplit("/", 1)[0], pod_with(schedulerName="nobody"))
    target = {"apiVersion": "v1", "kind": "Node", "name": "some-node"}
    binding = {"metadata": {"name": "pod", "annotations": ASSIGNED}, "target": target}
    code, status, _ = call("POST", f"{path}/binding", binding, user="system:serviceaccount:chat:other-scheduler")
    assert (code, ONLY_HEADROOM in status["message"]) == (403, True)
    code, status, _ = call("POST", f"{path}/binding", binding, user=SCHEDULER)
    assert code == 201, status
    return path


@pytest.mark.parametrize("subresource", ["", "/status"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"headroom.dev/assigned-vram-mib": "0"}, id="L18 HAMi PR#3074: a smaller share"),
        pytest.param({"headroom.dev/assigned-cards": "GPU-n-1"}, id="a neighbour's card"),
        pytest.param({"headroom.dev/assigned-cards": None}, id="L19: removed"),
        pytest.param({"headroom.dev/kubelet-cards": "GPU-n-1"}, id="kubelet's word"),
        pytest.param({"headroom.dev/assigned-anything": "new"}, id="a key of tomorrow"),
    ],
)
def test_only_headroom_changes_an_assignment(
    call: Caller, placed: str, subresource: str, change: dict[str, Any]
) -> None:
    body = {"metadata": {"annotations": change}}
    for user in (ADMIN, "system:serviceaccount:chat:owner", "system:node:some-node"):
        code, status, _ = call("PATCH", placed + subresource, body, user=user, kind=MERGE)
        assert (code, ONLY_HEADROOM in status["message"]) == (403, True), status
    code, pod, _ = call("PATCH", placed + subresource, body, user=AGENT, kind=MERGE)
    assert code == 200, pod


def test_what_stays_as_it_is_passes(cluster: Cluster, call: Caller, placed: str) -> None:
    owner = "system:serviceaccount:chat:owner"
    code, pod, _ = call("PATCH", placed, {"metadata": {"annotations": {"team": "chat"}}}, user=owner, kind=MERGE)
    assert (code, pod["metadata"]["annotations"]) == (200, ASSIGNED | {"team": "chat"})
    code, _, _ = call("PUT", placed, pod, user=owner)
    assert code == 200
    code, _, _ = call("PATCH", f"{placed}/status", {"status": {"phase": "Running"}}, user="system:node:n", kind=MERGE)
    assert code == 200
    debug = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "busybox"}]}}
    strategic = "application/strategic-merge-patch+json"
    code, status, _ = call("PATCH", f"{placed}/ephemeralcontainers", debug, user=owner, kind=strategic)
    assert code == 200, status


def test_a_binding_without_an_assignment_is_anybodys_who_may_bind(call: Caller, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/pod"
    call("POST", path.rsplit("/", 1)[0], pod_with(schedulerName="nobody"))
    target = {"apiVersion": "v1", "kind": "Node", "name": "some-node"}
    code, status, _ = call("POST", f"{path}/binding", {"metadata": {"name": "pod"}, "target": target})
    assert code == 201, status


# 2. Visible cards

OWN = {"fieldRef": {"fieldPath": "metadata.annotations['headroom.dev/assigned-cards']"}}


@pytest.mark.parametrize(
    ("value", "warned"),
    [
        ("void", False), ("none", False), ("", False), (OWN, False),
        ("all", True), ("0", True), ("GPU-n-1", True), ("none,0", True), ("$(CARDS)", True),
        ({"fieldRef": {"fieldPath": "metadata.annotations['cards']"}}, True),
        ({"configMapKeyRef": {"name": "settings", "key": "cards"}}, True),
    ],
)  # fmt: skip
def test_visible_cards(call: Caller, namespace: str, value: Any, warned: bool) -> None:
    container = env(NVIDIA_VISIBLE_DEVICES=value)
    for pod in (pod_with(container), pod_with(initContainers=[container | {"name": "init"}])):
        code, _, warnings = dry_run(call, namespace, pod)
        assert code == 201
        assert ("NVIDIA_VISIBLE_DEVICES lets it see cards that nobody gave to the pod" in warnings) == warned
        assert (warnings != "") == warned


def test_cards_injected_by_name_are_told_of(call: Caller, namespace: str) -> None:
    code, _, warnings = dry_run(call, namespace, pod_with(annotations={"cdi.k8s.io/mine": "nvidia.com/gpu=all"}))
    assert (code, "annotation cdi.k8s.io/mine: it lets the pod see cards" in warnings) == (201, True)
    assert not dry_run(call, namespace, pod_with(annotations={"cdi.k8s.io/mine": "vendor.com/nic=eth1"}))[2]


def test_kubectl_debug_is_judged_by_what_it_adds(cluster: Cluster, call: Caller, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/pod"
    call("POST", path.rsplit("/", 1)[0], pod_with(env(NVIDIA_VISIBLE_DEVICES="all"), nodeName="some-node"))
    strategic = "application/strategic-merge-patch+json"
    for name, value, warned in (("calm", "void", False), ("curious", "all", True)):
        added = env(NVIDIA_VISIBLE_DEVICES=value) | {"name": name}
        body = {"spec": {"ephemeralContainers": [added]}}
        code, _, warnings = call("PATCH", f"{path}/ephemeralcontainers", body, kind=strategic)
        assert (code, "container curious" in warnings) == (200, warned)


def test_one_setting_denies_instead_of_warning(cluster: Cluster, call: Caller, namespace: str) -> None:
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/headroom-visible-devices"
    pod = pod_with(env(NVIDIA_VISIBLE_DEVICES="all"))
    try:
        cluster.api.patch(path, {"spec": {"validationActions": ["Deny"]}})
        cluster.wait_for(lambda: dry_run(call, namespace, pod)[0] == 422, "the pod to be denied")
        assert "set it to 'void'" in dry_run(call, namespace, pod)[1]["message"]
        for exempt in ("headroom-system", "gpu-operator"):
            cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": exempt}}])
            code, status, _ = dry_run(call, exempt, pod_with(env(NVIDIA_VISIBLE_DEVICES="all"), serviceAccountName="x"))
            assert "NVIDIA_VISIBLE_DEVICES" not in status.get("message", ""), (code, status)
    finally:
        cluster.api.patch(path, {"spec": {"validationActions": ["Warn", "Audit"]}})


# 3. Sizes


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"headroom.dev/vram": "18"}, "headroom.dev/vram: 18: that is in bytes, and 64 MiB or less; write the unit, such as 18Gi"),
        ({"headroom.dev/vram": "1"}, "headroom.dev/vram: 1: that is in bytes"),
        ({"headroom.dev/vram": "18k"}, "headroom.dev/vram: 18k: that is in bytes"),
        ({"headroom.dev/vram": "64Mi", "headroom.dev/gpu": "2"}, "headroom.dev/vram: 64Mi"),
        ({"nvidia.com/gpu": "1", "headroom.dev/vram": "40"}, "headroom.dev/vram: 40"),
        ({"nvidia.com/gpumem": "18"}, "nvidia.com/gpumem: 18: that is in MiB, and 64 or less"),
        ({"volcano.sh/vgpu-number": "1", "volcano.sh/vgpu-memory": "64"}, "volcano.sh/vgpu-memory: 64: that is in MiB"),
        ({"volcano.sh/vgpu-number": "1", "volcano.sh/vgpu-memory": "3000"}, ""),
        ({"headroom.dev/vram": "65Mi"}, ""),
        ({"headroom.dev/vram": "18Gi"}, ""),
        ({"headroom.dev/vram": "0"}, ""),
        ({"nvidia.com/gpumem": "3000"}, ""),
        ({"nvidia.com/gpumem": "0"}, ""),
        ({"aliyun.com/gpu-mem": "8"}, ""),
        ({"cpu": "1"}, ""),
    ],
)  # fmt: skip
def test_sizes_without_their_unit(call: Caller, namespace: str, limits: dict[str, str], words: str) -> None:
    for pod in (
        pod_with(asking(limits)),
        pod_with({"name": "main", "image": "x"}, initContainers=[asking(limits, name="first")]),
    ):
        code, answer, _ = dry_run(call, namespace, pod)
        assert (code, words in answer.get("message", "")) == ((422, True) if words else (201, True)), answer


# 4. A device resource of 0 is no device (K13)


def variables(container: dict[str, Any]) -> dict[str, str]:
    """Variable -> its value, or the annotation that it is read from."""
    found = {}
    for item in container.get("env", []):
        path = item.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        found[item["name"]] = path.removeprefix("metadata.annotations['").removesuffix("']") or item.get("value", "")
    return found


PINNED = {
    "NVIDIA_VISIBLE_DEVICES": names.ANNOTATION_ASSIGNED_CARDS,
    "HEADROOM_VRAM_MIB": names.ANNOTATION_ASSIGNED_VRAM_MIB,
    "HEADROOM_VRAM_SHARE": names.ANNOTATION_ASSIGNED_VRAM_SHARE,
}
SLICED = {name: value for name, value in PINNED.items() if name != "NVIDIA_VISIBLE_DEVICES"}
NO_CARD = {"NVIDIA_VISIBLE_DEVICES": "void"}
VRAM, ZERO_GPU = {"headroom.dev/vram": "8Gi"}, {"nvidia.com/gpu": "0"}


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param([VRAM | ZERO_GPU], [PINNED], id="k8s-device-plugin#61: beside the size"),
        pytest.param([VRAM, ZERO_GPU], [PINNED, NO_CARD], id="on another container"),
        pytest.param([ZERO_GPU | {"nvidia.com/gpu.shared": "0"}, VRAM], [NO_CARD, PINNED], id="on the first container"),
        pytest.param([{"headroom.dev/vram": "0"}], [NO_CARD], id="memory of 0: a pod without a GPU"),
        pytest.param([ZERO_GPU | {"headroom.dev/vram": "0"}], [NO_CARD], id="both 0"),
        pytest.param([{"headroom.dev/gpu": "0"}], [NO_CARD], id="no card of Headroom's choice"),
        pytest.param([VRAM, {"headroom.dev/vram": "0"}], [PINNED, NO_CARD], id="one of two containers asks"),
        pytest.param([{"headroom.dev/vram": "0", "nvidia.com/gpu": "1"}], [{}], id="a device beside memory of 0"),
        pytest.param([VRAM | {"nvidia.com/gpu": "1"}, ZERO_GPU], [SLICED, NO_CARD], id="a slice, and a container without"),
        pytest.param([VRAM, {"cpu": "1"}], [PINNED, {}], id="a sidecar that says nothing"),
    ],
)  # fmt: skip
def test_a_device_resource_of_0_is_no_device(
    call: Caller, namespace: str, limits: list[dict[str, str]], expected: list[dict[str, str]]
) -> None:
    containers = [asking(each, name=f"c{at}") for at, each in enumerate(limits)]
    _, pod, _ = dry_run(call, namespace, pod_with(*containers))
    assert [variables(container) for container in pod["spec"]["containers"]] == expected
    _, pod, _ = dry_run(call, namespace, pod_with({"name": "main", "image": "x"}, initContainers=containers))
    assert [variables(container) for container in pod["spec"]["initContainers"]] == expected

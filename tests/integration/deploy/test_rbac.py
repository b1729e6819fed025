"""The rights in deploy/ are enough, and no more: extender and kube-scheduler run with exactly their service account's.

The API server's audit log is the witness: which calls an account made, and which were refused.
"""

import contextlib
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from headroom.kube import calls
from headroom.kube.client import Unprocessable
from simulations.kwok.cluster import Cluster, ClusterError
from simulations.kwok.nodes import uniform_nodes
from simulations.kwok.process import free_port
from tests.paths import DEPLOY

BASE = DEPLOY / "base"
SYSTEM = "headroom-system"
ALONE = f"system:serviceaccount:{SYSTEM}:extender-alone"
TOGETHER = f"system:serviceaccount:{SYSTEM}:headroom-scheduler"
WAKES_ONLY = "may change no more of a node than the annotation"

Right = tuple[str, str, str]  # API group, resource, verb


def granted_rights() -> set[Right]:
    """All that the extender's own roles grant."""
    documents = yaml.safe_load_all((BASE / "scheduler-rbac.yaml").read_text())
    return {
        (group, resource, verb)
        for role in documents
        if role["kind"] in ("ClusterRole", "Role")
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def calls_by(cluster: Cluster, user: str) -> list[dict[str, Any]]:
    return [event for event in cluster.audit_events() if event["user"]["username"] == user]


def rights_used(cluster: Cluster, user: str) -> set[Right]:
    targets = [(event["objectRef"], event["verb"]) for event in calls_by(cluster, user) if "objectRef" in event]
    return {
        (target.get("apiGroup", ""), "/".join(filter(None, (target["resource"], target.get("subresource")))), verb)
        for target, verb in targets
    }


def refused(events: list[dict[str, Any]]) -> list[str]:
    return sorted(
        {f"{event['verb']} {event['requestURI']}" for event in events if event["responseStatus"]["code"] == 403}
    )


def pod(name: str, mib: int, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "server", "resources": {"limits": {"headroom.dev/vram": f"{mib}Mi"}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"schedulerName": "headroom", "terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }


def node_of(cluster: Cluster, name: str) -> str:
    found: str = cluster.api.get(f"/api/v1/namespaces/default/pods/{name}")["spec"].get("nodeName", "")
    return found


@pytest.fixture(scope="module")
def secured() -> Iterator[Cluster]:
    """A cluster of its own, with deploy/base applied and a second account that has the extender's role alone."""
    with Cluster.start(nodes=uniform_nodes(2, cards=1, vram_mib=40960, resource=""), audit=True) as running:
        running.apply(BASE)
        # The second account may write assignments as the first one may.
        agent = "'system:serviceaccount:headroom-system:headroom-agent'"
        policies = (BASE / "pods-admission.yaml").read_text()
        assert agent in policies
        running.apply(policies.replace(agent, f"{agent}, '{ALONE}'"))
        running.apply(
            [
                {
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "metadata": {"name": "extender-alone", "namespace": SYSTEM},
                },
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "ClusterRoleBinding",
                    "metadata": {"name": "extender-alone"},
                    "roleRef": {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "ClusterRole",
                        "name": "headroom-extender",
                    },
                    "subjects": [{"kind": "ServiceAccount", "name": "extender-alone", "namespace": SYSTEM}],
                },
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "RoleBinding",
                    "metadata": {"name": "extender-alone", "namespace": SYSTEM},
                    "roleRef": {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "Role",
                        "name": "headroom-extender-lease",
                    },
                    "subjects": [{"kind": "ServiceAccount", "name": "extender-alone", "namespace": SYSTEM}],
                },
                {
                    "apiVersion": "scheduling.k8s.io/v1",
                    "kind": "PriorityClass",
                    "metadata": {"name": "urgent"},
                    "value": 1000,
                },
            ]
        )
        running.wait_for(lambda: policy_refuses(running), "the admission policies to be in force")
        yield running


def policy_refuses(cluster: Cluster) -> bool:
    """Whether the policy for the scheduler's account is in force: the API server takes one up within a second or two."""
    try:
        cluster.kubectl("label", "node", "gpu-0000", "pool=mine", "--dry-run=server", f"--as={TOGETHER}")
    except ClusterError as error:
        return WAKES_ONLY in str(error)
    return False


@pytest.fixture
def scheduling(secured: Cluster) -> Iterator[Callable[..., int]]:
    """Runs the extender as one account and the deployed kube-scheduler as `headroom-scheduler`; the extender's port."""
    running = []

    def run(extender_account: str, *flags: str) -> int:
        port = free_port()
        running.append(
            secured.daemon(
                "scheduler",
                f"--config={BASE / 'settings' / 'scheduler.yaml'}",
                f"--port={port}",
                *flags,
                name=f"extender-{extender_account}",
                ready_url=f"http://127.0.0.1:{port}/readyz",
                kubeconfig=secured.service_account_kubeconfig(SYSTEM, extender_account),
            )
        )
        config = yaml.safe_load((BASE / "kube-scheduler.yaml").read_text())
        config["extenders"][0]["urlPrefix"] = f"http://127.0.0.1:{port}"
        account = secured.service_account_kubeconfig(SYSTEM, "headroom-scheduler")
        running.append(secured.add_scheduler("headroom-kube-scheduler", config, kubeconfig=account))
        return port

    yield run
    for component in reversed(running):
        component.stop()
    secured.kubectl("delete", "pods", "--all", "-n", "default", "--wait=true")


def test_the_extenders_role_is_enough_and_every_right_is_used(secured: Cluster, scheduling: Callable[..., int]) -> None:
    """One day in the life: place, bind, refuse, preempt, wake, name ahead, explain by an Event."""
    port = scheduling("extender-alone", "--naming-ahead-backlog", "1", "--reservation-seconds", "2")
    secured.apply([pod(f"low-{number}", 30000) for number in range(2)])
    secured.wait_for(lambda: all(node_of(secured, f"low-{number}") for number in range(2)), "both nodes to fill up")

    secured.apply([pod("waiting", 20000)])  # refused: nobody of lower priority
    secured.apply([pod("urgent", 20000, priorityClassName="urgent")])
    secured.wait_for(lambda: node_of(secured, "urgent"), "the urgent pod to take the place of another")

    ask_to_bind_an_unknown_pod(port)
    reserve_and_never_bind(secured, port)
    ask_about_a_pod_of_every_kind_of_group(port)
    granted = granted_rights()
    with contextlib.suppress(ClusterError):  # the comparison below says more
        secured.wait_for(lambda: granted <= rights_used(secured, ALONE), "every right to be used")
    assert refused(calls_by(secured, ALONE)) == []
    assert rights_used(secured, ALONE) == granted


def post(port: int, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/{verb}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        decoded: dict[str, Any] = json.load(answer)
        return decoded


def ask_to_bind_an_unknown_pod(port: int) -> None:
    """The extender reads a pod from the API when kube-scheduler knows it before its own watch does."""
    answer = post(port, "bind", {"PodName": "ghost", "PodNamespace": "default", "PodUID": "1", "Node": "gpu-0000"})
    assert "ghost" in answer["Error"]


def reserve_and_never_bind(cluster: Cluster, port: int) -> None:
    """A scheduler that dies between filter and bind: when its reservation expires, refused pods are woken."""
    lost = pod("lost", 9000)
    lost["metadata"]["uid"] = "lost"
    answer = post(port, "filter", {"Pod": lost, "NodeNames": ["gpu-0000", "gpu-0001"]})
    assert len(answer["NodeNames"]) == 1
    cluster.apply([pod("wants-it", 9000), pod("wants-it-too", 9000)])


def ask_about_a_pod_of_every_kind_of_group(port: int) -> None:
    """How many members a group takes is read from its object, where the cluster serves such objects; this one serves none."""
    lws = {"leaderworkerset.sigs.k8s.io/name": "a", "leaderworkerset.sigs.k8s.io/group-index": "0"}
    kinds: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"schedulingGroup": {"podGroupName": "a"}}),
        ({}, {"workloadRef": {"name": "a", "podGroup": "b"}}),
        ({"labels": {"scheduling.x-k8s.io/pod-group": "a"}}, {}),
        ({"annotations": {"scheduling.k8s.io/group-name": "a"}}, {}),
        ({"labels": lws, "annotations": {"leaderworkerset.sigs.k8s.io/size": "2"}}, {}),
        ({"labels": {"jobset.sigs.k8s.io/jobset-name": "a"}}, {}),
        ({"labels": {"ray.io/cluster": "a", "ray.io/node-type": "worker"}}, {}),
    ]
    for kind in ("PyTorchJob", "TFJob", "MPIJob", "XGBoostJob", "PaddleJob", "JAXJob"):
        owner = {"apiVersion": "kubeflow.org/v1", "kind": kind, "name": "a", "uid": "u", "controller": True}
        labels = {"training.kubeflow.org/job-name": kind.lower()}
        kinds.append(({"labels": labels, "ownerReferences": [owner]}, {}))
    for at, (meta, spec) in enumerate(kinds):
        asked = pod(f"group-{at}", 1, **spec)
        asked["metadata"] |= {"uid": f"group-{at}", **meta}
        post(port, "filter", {"Pod": asked, "NodeNames": ["gpu-0000", "gpu-0001"]})


def test_kube_scheduler_and_extender_work_with_the_deployed_account(
    secured: Cluster, scheduling: Callable[..., int]
) -> None:
    port = scheduling("headroom-scheduler")
    secured.apply([pod("placed", 1000)])
    secured.wait_for(lambda: node_of(secured, "placed"), "a pod to be bound with the deployed rights")
    assert secured.exists(f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/headroom-scheduler")
    assert refused(calls_by(secured, TOGETHER)) == []
    kube_scheduler = secured.component("headroom-kube-scheduler").command
    secure_port = next(flag.split("=")[1] for flag in kube_scheduler if flag.startswith("--secure-port="))
    addresses = {"scheduler": f"https://127.0.0.1:{secure_port}", "extender": f"http://127.0.0.1:{port}"}
    probed = [addresses[probe["port"]] + probe["path"] for probe in deployed_probes()]
    assert len(probed) == 6
    assert {url: answer_to(url) for url in probed} == dict.fromkeys(probed, 200)


@pytest.mark.parametrize(
    ("patch", "allowed"),
    [
        pytest.param({"metadata": {"annotations": {"headroom.dev/vram-freed": "now"}}}, True, id="wake refused pods"),
        pytest.param({"metadata": {"annotations": {"headroom.dev/cards": "[]"}}}, False, id="describe cards"),
        pytest.param(
            {"metadata": {"annotations": {"headroom.dev/vram-freed": "1", "a": "b"}}}, False, id="more than that"
        ),
        pytest.param({"metadata": {"labels": {"pool": "mine"}}}, False, id="label"),
        pytest.param({"spec": {"unschedulable": True}}, False, id="cordon"),
    ],
)
async def test_a_stolen_account_can_only_wake_pods_by_a_node(
    secured: Cluster, patch: dict[str, Any], allowed: bool
) -> None:
    kube = await secured.client(secured.service_account_kubeconfig(SYSTEM, "headroom-scheduler"))
    refusal = ""
    try:
        await calls.merge_patch(kube, f"{calls.NODES}/gpu-0000", patch)
    except Unprocessable as error:
        refusal = str(error)
    finally:
        await kube.close()
    assert (WAKES_ONLY in refusal) is not allowed


def deployed_probes() -> list[dict[str, Any]]:
    """The HTTP probes of the Deployment's containers."""
    documents = yaml.safe_load_all((BASE / "scheduler.yaml").read_text())
    deployment = next(item for item in documents if item["kind"] == "Deployment")
    kinds = ("startupProbe", "livenessProbe", "readinessProbe")
    return [box[kind]["httpGet"] for box in deployment["spec"]["template"]["spec"]["containers"] for kind in kinds]


def answer_to(url: str) -> int:
    """Status of a GET, asked as the kubelet does: without credentials, whatever the certificate."""
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=10, context=unchecked) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code

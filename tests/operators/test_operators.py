"""The controllers of LeaderWorkerSet and MPIJob themselves, beside kube-scheduler and the extender: the examples of groups are placed.

Also holds `tests/fakes/operators.py` to what these controllers make.
"""

import base64
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from headroom.domain.model import GpuNode
from simulations.kwok.build import find_binaries
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import uniform_nodes
from simulations.kwok.operators import OPERATORS, definitions, webhooks
from simulations.kwok.process import free_port
from tests.fakes.operators import LWS, TRAINING, pods_of_mpi_job, stateful_sets
from tests.paths import DEPLOY

BLOCK = "cloud.google.com/gce-topology-block"
SPACE = "default"
Object = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Headroom as deploy/ has it, and both controllers."""
    folder, port = tmp_path_factory.mktemp("operators"), free_port()
    with Cluster.start() as running:
        config: Object = yaml.safe_load((DEPLOY / "base" / "kube-scheduler.yaml").read_text())
        config["leaderElection"] = {"leaderElect": False}
        config["extenders"][0]["urlPrefix"] = f"http://127.0.0.1:{port}"
        running.add_scheduler("headroom-kube-scheduler", config)
        for definition in definitions():
            running.install_crd(definition)
        running.daemon("scheduler", "--port", str(port), ready_url=f"http://127.0.0.1:{port}/readyz")
        start_lws(running, folder)
        running.kubectl("create", "namespace", "mpi-operator")
        running.run(
            "mpi-operator", [str(find_binaries(OPERATORS) / "mpi-operator"), "--kubeConfig", str(running.kubeconfig)],
            ready=lambda: running.exists("/apis/coordination.k8s.io/v1/namespaces/mpi-operator/leases/mpi-operator"),
        )  # fmt: skip
        running.apply(DEPLOY / "base" / "admission-policy.yaml")
        running.apply("{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: nvidia}, handler: nvidia}")
        yield running


def start_lws(running: Cluster, folder: Path) -> None:
    """Its controller, and the webhooks that it comes with, at an address of this machine."""
    port, probes, certificate = free_port(), free_port(), folder / "tls.crt"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += [
        "-keyout",
        str(folder / "tls.key"),
        "-out",
        str(certificate),
        "-subj",
        "/CN=lws",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    subprocess.run(command, check=True, capture_output=True)
    config = folder / "config.yaml"
    config.write_text(json.dumps({
        "apiVersion": "config.lws.x-k8s.io/v1alpha1", "kind": "Configuration", "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False}, "webhook": {"port": port, "host": "127.0.0.1", "certDir": str(folder)},
        "metrics": {"bindAddress": "0"}, "health": {"healthProbeBindAddress": f"127.0.0.1:{probes}"},
    }))  # fmt: skip
    running.run(
        "lws", [str(find_binaries(OPERATORS) / "lws"), "--config", str(config)],
        ready_url=f"http://127.0.0.1:{probes}/readyz", environment={"KUBECONFIG": str(running.kubeconfig)},
    )  # fmt: skip
    bodies = list(yaml.safe_load_all(webhooks().read_text()))
    for hook in (hook for body in bodies for hook in body["webhooks"]):
        path = hook["clientConfig"].pop("service")["path"]
        authority = base64.b64encode(certificate.read_bytes()).decode()
        hook["clientConfig"] |= {"url": f"https://127.0.0.1:{port}{path}", "caBundle": authority}
    running.apply(bodies)


def example(name: str, kind: str) -> Object:
    bodies = list(yaml.safe_load_all((DEPLOY / "examples" / name).read_text()))
    (body,) = (body for body in bodies if body["kind"] == kind)
    return dict(body)


def places(cluster: Cluster, selector: str) -> dict[str, tuple[str, int]]:
    """The node and the number of cards of each pod that is bound."""
    return {
        pod["metadata"]["name"]: (node, len(pod["metadata"]["annotations"]["headroom.dev/assigned-cards"].split(",")))
        for pod in cluster.pods(SPACE, labelSelector=selector)
        if (node := pod["spec"].get("nodeName"))
    }


def wait_refused(cluster: Cluster, selector: str) -> None:
    def refused() -> bool:
        pods = cluster.pods(SPACE, labelSelector=selector)
        words = [item.get("message", "") for pod in pods for item in pod["status"].get("conditions", [])]
        return (
            len(pods) == 2
            and not places(cluster, selector)
            and any("do not all fit together now" in each for each in words)
        )

    cluster.wait_for(refused, "the reason, and no place, on both pods")


def in_block(block: str, nodes: list[GpuNode]) -> list[GpuNode]:
    return [replace(node, labels={**node.labels, BLOCK: block}) for node in nodes]


def said(pod: Object, prefix: str) -> set[str]:
    """Keys of the labels and annotations that a controller wrote."""
    meta = pod["metadata"]
    return {key for key in (*meta.get("labels", {}), *meta.get("annotations", {})) if key.startswith(prefix)}


def test_a_leader_worker_set_gets_two_nodes_of_eight_cards_in_one_block(cluster: Cluster) -> None:
    selector = "app=vllm-llama-405b"
    cluster.create_nodes(in_block("one", uniform_nodes(1, prefix="alone-", cards=8, resource="")))
    cluster.create_nodes(in_block("two", uniform_nodes(2, prefix="pair-", cards=8, resource="")))
    cluster.apply(DEPLOY / "examples" / "leaderworkerset.yaml", SPACE)
    cluster.wait_for(lambda: len(places(cluster, selector)) == 2, "leader and worker to be placed")
    found = places(cluster, selector)
    assert sorted(found.values()) == [("pair-0000", 8), ("pair-0001", 8)]
    leader, worker = (
        pod for pod in sorted(cluster.pods(SPACE, labelSelector=selector), key=lambda pod: len(pod["metadata"]["name"]))
    )
    made = [one["spec"]["template"] for one in stateful_sets(example("leaderworkerset.yaml", "LeaderWorkerSet"))]
    for real, fake in zip((leader, worker), made, strict=True):
        assert said(fake, LWS) == {key for key in said(real, LWS) if not key.endswith("-revision-hash")}
        numbered = [LWS + key for key in ("name", "group-index", "worker-index")]
        assert [real["metadata"]["labels"][key] for key in numbered] == [
            fake["metadata"]["labels"][key] for key in numbered
        ]
        assert real["metadata"]["annotations"][LWS + "size"] == fake["metadata"]["annotations"][LWS + "size"]
    # The leader fails: LeaderWorkerSet makes both anew, and they get two nodes again.
    before = {pod["metadata"]["uid"] for pod in (leader, worker)}
    cluster.kubectl("delete", "pod", leader["metadata"]["name"], "--wait=false")
    cluster.wait_for(
        lambda: (
            len(places(cluster, selector)) == 2
            and not before & {pod["metadata"]["uid"] for pod in cluster.pods(SPACE, labelSelector=selector)}
        ),
        "both to be placed anew",
    )
    assert sorted(places(cluster, selector).values()) == [("pair-0000", 8), ("pair-0001", 8)]


def test_the_workers_of_an_mpi_job_get_their_cards_together_and_the_launcher_goes_anywhere(cluster: Cluster) -> None:
    selector = "app=horovod"
    cluster.kubectl("delete", "leaderworkersets", "--all")
    cluster.wait_for(lambda: not cluster.pods(SPACE), "the pods of the other test to go")
    cluster.kubectl("delete", "nodes", "--all")
    cluster.create_nodes(uniform_nodes(1, prefix="one-", cards=4, resource=""))
    cluster.apply(DEPLOY / "examples" / "mpijob-horovod.yaml", SPACE)
    wait_refused(cluster, selector)
    cluster.create_nodes(uniform_nodes(1, prefix="two-", cards=4, resource=""))
    cluster.wait_for(lambda: len(places(cluster, selector)) == 2, "both workers to be placed")
    assert sorted(places(cluster, selector).values()) == [("one-0000", 4), ("two-0000", 4)]
    launchers = cluster.pods(SPACE, labelSelector=f"{TRAINING}job-role=launcher")
    assert [bool(pod["spec"].get("nodeName")) for pod in launchers] == [True]
    found = cluster.api.get(f"/apis/kubeflow.org/v2beta1/namespaces/{SPACE}/mpijobs/horovod")
    real = sorted(
        cluster.pods(SPACE, labelSelector=f"{TRAINING}job-role=worker"), key=lambda pod: str(pod["metadata"]["name"])
    )
    fakes = pods_of_mpi_job(found)[1:]
    for pod, fake in zip(real, fakes, strict=True):
        assert pod["metadata"]["name"] == fake["metadata"]["name"]
        assert said(pod, TRAINING) == said(fake, TRAINING)
        assert pod["metadata"]["ownerReferences"] == fake["metadata"]["ownerReferences"]

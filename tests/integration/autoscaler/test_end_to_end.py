"""The autoscaler as a process on a real control plane: kwok pods, emulated engines, a real Prometheus, the real extender."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from simulations.kwok.cluster import Cluster, ClusterError
from simulations.kwok.emulator import Load, ServingEmulator
from simulations.kwok.nodes import uniform_nodes
from simulations.kwok.process import Component
from tests.fakes.autoscaled import SETTLE_SECONDS, Autoscaled

FAILOVER_SECONDS = 15.0
"""The budget, from the death of a leader to the first act of the next; a quiet machine keeps it."""
IMPATIENT = ("--prometheus-timeout-seconds", "2")


@pytest.fixture(scope="module")
def autoscaler(start_autoscaler: Callable[..., Component]) -> Component:
    return start_autoscaler(*IMPATIENT)


@dataclass
class Workload(Autoscaled):
    """A Deployment of emulated servers and its InferenceAutoscaler."""

    emulator: ServingEmulator = field(kw_only=True)

    def deploy(
        self, replicas: int = 1, *, start_seconds: float = 2, vram: str = "20Gi", drain_seconds: float = 0.5
    ) -> None:
        labels = {"app": self.name}
        template = {
            "metadata": {
                "labels": labels,
                "annotations": {
                    "headroom.dev/sim-cold-start-seconds": str(start_seconds),
                    "headroom.dev/sim-drain-seconds": str(drain_seconds),
                },
            },
            "spec": {
                "schedulerName": "headroom",
                "containers": [
                    {"name": "server", "image": "server", "resources": {"limits": {"headroom.dev/vram": vram}}}
                ],
            },
        }
        self.cluster.apply(
            [
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "metadata": {"name": self.name, "namespace": self.namespace},
                    "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
                }
            ]
        )

    def condition(self, kind: str) -> dict[str, Any]:
        return next((c for c in self.status.get("conditions", ()) if c["type"] == kind), {})

    def wait_replicas(self, count: int) -> None:
        self.wait(lambda: self.replicas == count, f"{count} replicas")


@pytest.fixture
def workload(
    cluster: Cluster, emulator: ServingEmulator, autoscaler: Component, namespace: str, gpu_nodes: Callable[..., None]
) -> Workload:
    gpu_nodes(uniform_nodes(2, cards=4, vram_mib=40960, resource=""))
    return Workload(cluster, namespace, emulator=emulator)


class TestTracking:
    def test_a_step_up_and_a_step_down_are_followed_and_settle(self, workload: Workload) -> None:
        workload.emulator.serve(workload.key, Load(4.0))
        workload.deploy(1)
        workload.autoscale()
        workload.wait_replicas(1)
        workload.emulator.change(workload.key, requests_per_second=14.0)
        workload.wait(lambda: workload.replicas >= 4, "growth")
        high = workload.settle()
        assert workload.seen(10) == {high}, "it moves without a change of load"
        workload.emulator.change(workload.key, requests_per_second=2.0)
        workload.wait(lambda: workload.replicas <= 2, "the cut")
        low = workload.settle()
        assert workload.seen(10) == {low}, "it moves without a change of load"
        history = workload.status["history"]
        assert [entry["to"] for entry in history][-1] > 1
        assert {entry["reason"] for entry in history} == {"Raised", "Lowered"}

    def test_work_in_gpu_seconds_is_followed(self, workload: Workload) -> None:
        workload.emulator.serve(workload.key, Load(1.0))
        workload.deploy(1)
        workload.autoscale(
            signals=None, work={"secondsPerPromptToken": "0.00015", "secondsPerOutputToken": "0.0009"}, maxReplicas=6
        )
        # R = 12 x (500 x 0.00015 + 100 x 0.0009) = 1.98 GPU seconds a second
        workload.emulator.change(workload.key, requests_per_second=12.0)
        workload.wait(lambda: workload.replicas in (3, 4), "three or four replicas")
        assert workload.settle() in (3, 4)

    def test_a_pod_without_metrics_is_not_mistaken_for_an_idle_one(self, workload: Workload) -> None:
        workload.emulator.serve(workload.key, Load(12.0, engine="vllm-old"))
        workload.deploy(4)
        workload.autoscale(maxReplicas=6)
        workload.wait_ready(4)
        before = workload.settle()
        silent = next(iter(workload.emulator.in_flight(workload.key)))
        workload.emulator.change(workload.key, silent=frozenset({silent}))
        assert min(workload.seen(SETTLE_SECONDS)) >= before


class TestZero:
    def test_to_zero_and_back(self, workload: Workload) -> None:
        workload.emulator.serve(workload.key, Load(3.0))
        workload.deploy(1)
        of = f'{{namespace="{workload.namespace}"}}'
        query = f"sum(emulator_router_queue{of}) + sum(emulator_requests_per_second{of})"
        workload.autoscale(
            minReplicas=0, scaleToZero={"idleAfter": "5s", "activationQuery": query, "activationThreshold": "0.5"}
        )
        workload.wait_ready(1)
        workload.emulator.change(workload.key, requests_per_second=0.0)
        workload.wait_replicas(0)
        assert workload.seen(4) == {0}
        workload.emulator.change(workload.key, requests_per_second=3.0)
        workload.wait_replicas(1)
        workload.wait_ready(1)
        workload.emulator.change(workload.key, requests_per_second=0.0)
        workload.wait_replicas(0)


class TestCapacity:
    def test_growth_stops_at_what_fits_and_goes_on_when_another_tenant_leaves(
        self, workload: Workload, cluster: Cluster
    ) -> None:
        tenant = Workload(cluster, workload.namespace, "tenant", emulator=workload.emulator)
        tenant.deploy(5, vram="40Gi")
        workload.emulator.serve(workload.key, Load(2.0))
        workload.deploy(1, vram="40Gi")
        workload.autoscale()
        workload.wait_ready(1)
        workload.emulator.change(workload.key, requests_per_second=40.0)
        workload.wait_replicas(3)  # eight cards, five taken
        workload.wait(lambda: workload.status.get("unmetReplicas", 0) >= 1, "unmet replicas in the status")
        limited = workload.condition("CapacityLimited")
        assert limited["status"] == "True"
        assert "40960 MiB" in limited["message"]
        assert workload.seen(5) == {3}
        assert all(pod["spec"].get("nodeName") for pod in cluster.pods(workload.namespace, labelSelector="app=llm"))
        cluster.kubectl("delete", "deployment", "tenant", "-n", workload.namespace)
        workload.wait_replicas(8)
        workload.wait(lambda: workload.condition("CapacityLimited")["status"] == "False", "the limit to be gone")


class TestFaults:
    def test_an_outage_of_prometheus_freezes_and_is_said(self, workload: Workload, cluster: Cluster) -> None:
        workload.emulator.serve(workload.key, Load(14.0))
        workload.deploy(4)
        workload.autoscale()
        workload.wait_ready(4)
        held = workload.settle()
        prometheus = cluster.component("prometheus")
        prometheus.kill()
        try:
            workload.emulator.change(workload.key, requests_per_second=0.5)
            workload.wait(lambda: workload.condition("ScalingActive").get("status") == "False", "the outage to be said")
            assert workload.condition("ScalingActive")["reason"] == "Outage"
            assert workload.seen(10) == {held}
        finally:
            prometheus.restart()
        workload.wait(lambda: workload.condition("ScalingActive").get("status") == "True", "the recovery")
        workload.wait(lambda: workload.replicas < held, "the cut that waited")

    def test_a_second_owner_is_named_and_nothing_is_written(self, workload: Workload, cluster: Cluster) -> None:
        workload.emulator.serve(workload.key, Load(20.0))
        workload.deploy(1)
        cluster.kubectl("autoscale", "deployment", "llm", "--min=1", "--max=3", "-n", workload.namespace)
        workload.autoscale()
        workload.wait(lambda: workload.condition("Conflict").get("status") == "True", "the conflict to be said")
        assert "HorizontalPodAutoscaler" in workload.condition("Conflict")["message"]
        assert workload.seen(5) == {1}
        cluster.kubectl("delete", "hpa", "llm", "-n", workload.namespace)
        workload.wait(lambda: workload.replicas > 1, "growth once it is the only owner")
        workload.wait(lambda: workload.condition("Conflict").get("status") == "False", "the status to follow")

    def test_a_missing_target_is_said_and_found_later(self, workload: Workload) -> None:
        workload.autoscale()
        workload.wait(lambda: workload.condition("Ready").get("reason") == "TargetNotFound", "the missing target")
        workload.emulator.serve(workload.key, Load(1.0))
        workload.deploy(1)
        workload.wait(lambda: workload.condition("Ready").get("status") == "True", "the target to be found")

    def test_a_leader_that_dies_is_replaced(
        self, workload: Workload, start_autoscaler: Callable[..., Component], autoscaler: Component
    ) -> None:
        workload.emulator.serve(workload.key, Load(2.0))
        workload.deploy(1)
        workload.autoscale()
        workload.wait_ready(1)
        standby = start_autoscaler(*IMPATIENT, name="standby")
        try:
            time.sleep(3)
            autoscaler.kill()
            died = time.monotonic()
            workload.emulator.change(workload.key, requests_per_second=14.0)
            workload.wait(lambda: workload.replicas > 1, "the standby to act")
            took_seconds = time.monotonic() - died
            print(f"the standby acted {took_seconds:.1f} s after the leader's death")
            assert took_seconds < 3 * FAILOVER_SECONDS, "beyond all slack that a slow machine is given"
        finally:
            autoscaler.restart()
            standby.stop()
        workload.wait(lambda: len(workload.seen(5)) == 1, "the first one to take over again without a jump")


class TestChoice:
    def test_the_least_loaded_pod_goes_first(self, workload: Workload, cluster: Cluster) -> None:
        workload.emulator.serve(workload.key, Load(0.0, output_tokens=1e9))  # requests that do not end
        workload.deploy(3)
        workload.autoscale(minReplicas=2, maxReplicas=3)
        workload.wait_ready(3)
        names = sorted(workload.emulator.in_flight(workload.key))
        for name, requests in zip(names, (5.0, 1.0, 4.0), strict=True):
            workload.emulator.put(workload.key, name, requests)
        workload.wait_replicas(2)
        workload.wait(lambda: len(cluster.pods(workload.namespace)) == 2, "one pod to go")
        left = {pod["metadata"]["name"] for pod in cluster.pods(workload.namespace)}
        assert left == {names[0], names[2]}

    def test_advisory_reports_and_writes_nothing(self, workload: Workload, cluster: Cluster) -> None:
        workload.emulator.serve(workload.key, Load(20.0))
        workload.deploy(1)
        workload.autoscale(mode="Advisory")
        workload.wait(lambda: workload.status.get("desiredReplicas", 0) > 3, "a wish in the status")
        assert workload.seen(5) == {1}
        path = f"/apis/apps/v1/namespaces/{workload.namespace}/deployments/llm"
        events = [e for e in cluster.audit_events() if e["requestURI"].startswith(f"{path}/scale")]
        assert [e for e in events if e["verb"] == "patch"] == []


WINDOW = {"name": "day", "start": "0 8 * * 1-5", "end": "@daily", "timeZone": "Europe/Berlin", "minReplicas": 2}

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "bounds": ({"minReplicas": 9}, "minReplicas must not be above maxReplicas"),
    "zero": ({"minReplicas": 0}, "minReplicas 0 needs scaleToZero"),
    "engine": ({"engine": "onnx"}, 'Unsupported value: "onnx"'),
    "custom": ({"engine": "custom", "signals": None}, "engine custom needs signals"),
    "target": ({"signals": [{"name": "q", "type": "queue", "target": 0}]}, "target must be a number above 0"),
    "query": ({"signals": [{"name": "q", "type": "query", "target": 1}]}, "query belongs to signals of type query"),
    "kind": ({"scaleTargetRef": {"kind": "", "name": "x"}}, "should be at least 1 chars long"),
    "share": ({"signals": [{"name": "k", "type": "kvCache", "target": "1.5"}]}, "a share of at most 1"),
    "busy share": ({"signals": [{"name": "w", "type": "work", "target": 3}]}, "a busy share of at most 2"),
    "half of the prices": ({"work": {"secondsPerPromptToken": "0.0002"}}, "state both secondsPerPromptToken and"),
    "no such metric": (
        {"engine": "tgi", "signals": [{"name": "k", "type": "kvCache", "target": "0.9"}]},
        "the engine does not export",
    ),
    "threshold": ({"scaleToZero": {"activationQuery": "x", "activationThreshold": "1x"}}, "must be a number"),
    "a window above the bounds": ({"schedule": [{**WINDOW, "minReplicas": 9}]}, "must not be above maxReplicas"),
    "a window that ends as it starts": ({"schedule": [{**WINDOW, "end": WINDOW["start"]}]}, "must not be the same"),
    "four fields of cron": ({"schedule": [{**WINDOW, "start": "0 8 * *"}]}, "should match"),
    "duration": ({"scaleToZero": {"idleAfter": "soon", "activationQuery": "x"}}, "idleAfter"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_bad_object_is_refused_by_the_api_server(workload: Workload, case: str) -> None:
    spec, words = BAD[case]
    with pytest.raises(ClusterError, match=words.replace("(", r"\(")):
        workload.autoscale(**spec)


def test_a_schedule_is_taken_and_holds_without_any_signal(workload: Workload) -> None:
    """The window is open at all times; nothing else can bring the target up."""
    workload.deploy(1)
    workload.autoscale(schedule=[{**WINDOW, "start": "* * * * *", "end": "@yearly"}])
    workload.wait_replicas(2)


def test_an_engine_a_target_and_bounds_are_enough(workload: Workload, cluster: Cluster) -> None:
    workload.emulator.serve(workload.key, Load(2.0))
    workload.deploy(1)
    workload.autoscale(signals=None, behavior=None)
    workload.wait(lambda: workload.condition("ScalingActive").get("status") == "True", "fresh signals")
    table = cluster.kubectl("get", "ia", "-n", workload.namespace)
    assert table.split()[:4] == ["NAME", "TARGET", "ENGINE", "MIN"]

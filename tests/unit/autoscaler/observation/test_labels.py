"""Each request counts once, whatever labels its series carry: pods scraped twice, ranks, two servers, reloads, other tenants."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.fleet import START, Fleet
from tests.fakes.scraping import Exposes, exposition, grows, histogram, sglang, together, vllm

LONG_AGO = START - 5000
LWS = "leaderworkerset.sigs.k8s.io"
COSTS = {"secondsPerPromptToken": "0.0002", "secondsPerOutputToken": "0.0003"}
MODES = ["job", "instance", "endpoint", "service", "container", "prometheus", "prometheus_replica", "cluster", "node", "node_name",
         "kubernetes_node", "kubernetes_name", "kubernetes_namespace", "kubernetes_pod_name", "replica", "__replica__", "receive",
         "tenant_id", "monitor", "app", "app_kubernetes_io_name", "app_kubernetes_io_version", "release", "pod_template_hash",
         "controller_revision_hash", "host", "hostname", "pod_ip", "pod_uid", "uid", "location", "project_id", "region", "zone",
         "environment", "env", "team", "source", "metrics_path", "scheme", "port", "container_port", "pod_container_name", "workload",
         "version", "chart", "component", "top_level_controller_name", "top_level_controller_type", "k8s_pod_name", "exported_job",
         "otel_scope_name", "otel_scope_version", "service_name", "service_instance_id", "helm_sh_chart", "llm_d_ai_variant",
         "llm_d_ai_model", "role", "leaderworkerset_sigs_k8s_io_name", "tp_rank", "pid"]  # fmt: skip


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    made.deployment(replicas=4)
    yield made
    assert made.failures() == 0
    await made.close()


def in_flight(fleet: Fleet) -> float:
    return fleet.wish().value


class TestScrapedTwice:
    """The four pods hold 9.5 requests each, just below their target of 10: counted twice they would become eight."""

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            pytest.param({}, {"job": "svc", "service": "llm", "endpoint": "http"}, id="two ServiceMonitors (L01 prometheus-operator#1767)"),
            pytest.param(
                {"container": "server", "endpoint": "http"}, {"job": "annotated", "app": "llm", "pod_template_hash": "5d9f", "node": "n"},
                id="PodMonitor and annotations (L02 helm-charts#2181)",
            ),
            pytest.param(
                {"source": "pods"}, {"job": "alloy", "source": "services", "instance": "llm.default.svc:8000"},
                id="two discovery sources (L03 grafana-loki-on-k8s#271)",
            ),
            pytest.param({"replica": "a"}, {"replica": "b"}, id="two Prometheus replicas (L04 prometheus#9313)"),
            pytest.param({}, {"job": "other", "app_kubernetes_io_name": "vllm"}, id="podTargetLabels (L04c)"),
            pytest.param(
                {},
                {"job": "federate", "instance": "prom:9090", "exported_job": "podmon/llm", "exported_instance": "10.0.0.1:8000"},
                id="federation (L32)",
            ),
            pytest.param({}, {"job": "kubernetes-pods", "engine": "vllm"}, id="a pod label that the engine has too"),
            pytest.param({}, {"job": "kubernetes-pods", "version": "v1", "model": "m"}, id="pod labels that tell parts of other engines"),
            pytest.param({}, {"job": "istio", "instance": "10.0.0.1:15020"}, id="a mesh's merged port"),
            pytest.param({}, {"job": "svc", "instance": "llm.default.svc:80"}, id="a Service on another port"),
        ],
    )  # fmt: skip
    async def test_it_counts_once(self, fleet: Fleet, first: dict[str, Any], second: dict[str, Any]) -> None:
        for number, pod in enumerate(fleet.pods()):
            serves = vllm(9.5, kv_cache=0.3, per_second=3.0 + number, since=LONG_AGO)
            fleet.scrape(pod, serves, **first)
            fleet.scrape(pod, serves, target={"phase": 7.0}, **second)
        fleet.object()
        assert await fleet.tick(10) == [4] * 10
        assert in_flight(fleet) == 38

    @pytest.mark.parametrize("label", MODES)
    @pytest.mark.parametrize("phase", [2.0, 7.0], ids=["same scrape", "another scrape"])
    async def test_no_other_label_doubles_it(self, fleet: Fleet, label: str, phase: float) -> None:
        """S02: of 55 usual labels 44 doubled the load."""
        for number, pod in enumerate(fleet.pods()):
            serves = vllm(9.5, kv_cache=0.3, per_second=3.0 + number, since=LONG_AGO)
            fleet.scrape(pod, serves)
            second: dict[str, Any] = {label: "second"}
            fleet.scrape(pod, serves, target={"phase": phase}, **second)
        fleet.object(signals=None, work=COSTS)
        await fleet.tick(6)
        assert fleet.wish("work").state == "fresh"
        rate = (3 + 4 + 5 + 6) * (500 * 0.0002 + 100 * 0.0003)
        assert fleet.wish("work").value == pytest.approx(rate, rel=0.01)
        fleet.object()
        await fleet.tick()
        assert (fleet.wish().state, in_flight(fleet)) == ("fresh", 38)

    async def test_the_whole_law_ends_where_it_ends_with_one_scrape(self) -> None:
        """L33: default signals, pods that follow, thirty minutes."""
        ends = []
        for jobs in (["podmon/llm"], ["podmon/llm", "kubernetes-pods"]):
            fleet = Fleet()
            fleet.deployment(replicas=4)
            made: list[str] = []

            def follow(fleet: Fleet = fleet, made: list[str] = made, jobs: list[str] = jobs) -> None:
                while len(made) < fleet.replicas:
                    name = f"llm-5d9f-{len(made)}"
                    fleet.pod(name, ip=f"10.0.0.{len(made) + 1}", ready_at=fleet.now - 20)
                    serves = vllm(
                        lambda time: 36.0 / len(made),
                        kv_cache=0.3,
                        per_second=5.0 if len(made) < 4 else 0.0,
                        since=LONG_AGO,
                    )
                    for at, job in enumerate(jobs):
                        more: dict[str, Any] = {"app": "llm"} if at else {}
                        fleet.scrape(name, serves, job=job, target={"phase": 2.0 + 5 * at}, **more)
                    made.append(name)

            fleet.object(signals=None)
            await fleet.tick(60, follow)
            ends.append(fleet.replicas)
            await fleet.close()
        assert ends[0] == ends[1] < 20


class TestParts:
    async def test_engines_of_one_server_are_added(self, fleet: Fleet) -> None:
        """L14: data parallel."""
        for pod in fleet.pods():
            fleet.scrape(pod, together(*(vllm(2.0, engine=str(rank)) for rank in range(8))))
        fleet.object()
        await fleet.tick(2)
        assert in_flight(fleet) == 64

    async def test_adapters_and_served_names_are_added(self, fleet: Fleet) -> None:
        """L24."""
        for pod in fleet.pods():
            fleet.scrape(pod, together(*(vllm(5.0, model_name=name) for name in ("base", "lora-a", "lora-b"))))
        fleet.object()
        await fleet.tick(2)
        assert in_flight(fleet) == 60

    async def test_engines_scraped_as_targets_of_their_own_are_added(self, fleet: Fleet) -> None:
        for pod in fleet.pods():
            for rank in range(4):
                fleet.scrape(pod, vllm(2.0, engine=str(rank)), port=8000 + rank, target={"phase": 1.0 + rank})
        fleet.object()
        await fleet.tick(2)
        assert in_flight(fleet) == 32

    @pytest.mark.parametrize(
        ("ranks", "expected"),
        [
            pytest.param(
                [{"tp_rank": str(n), "pp_rank": "0", "dp_rank": "0"} for n in range(8)], 6, id="one count on every rank (L15 sglang#31896)"
            ),
            pytest.param([{"tp_rank": str(n), "moe_ep_rank": str(n)} for n in range(8)], 6, id="no dp_rank at all"),
            pytest.param([{"tp_rank": "0", "pp_rank": str(n)} for n in range(4)], 6, id="pipeline stages"),
            pytest.param(
                [{"tp_rank": str(n), "dp_rank": str(n), "pid": str(900 + n)} for n in range(8)], 48, id="DP attention (L16 aibrix#1614)"
            ),
            pytest.param(
                [{"tp_rank": str(n), "dp_rank": str(n // 4)} for n in range(8)], 12, id="two data-parallel groups of four ranks"
            ),
        ],
    )  # fmt: skip
    async def test_ranks_that_repeat_a_count_are_not_added(
        self, fleet: Fleet, ranks: list[dict[str, Any]], expected: float
    ) -> None:
        for pod in fleet.pods():
            fleet.scrape(pod, together(*(sglang(6.0, **rank) for rank in ranks)))
        fleet.object(engine="sglang", maxReplicas=64)
        await fleet.tick(2)
        assert in_flight(fleet) == 4 * expected

    async def test_priorities_are_parts_of_a_total_that_is_there(self, fleet: Fleet) -> None:
        """SGLang with priority scheduling: the total without a label, and each priority beside it."""
        for pod in fleet.pods():
            split = [sglang(10.0), sglang(4.0, priority="1"), sglang(6.0, priority="5")]
            fleet.scrape(pod, together(*split))
        fleet.object(engine="sglang")
        await fleet.tick(2)
        assert in_flight(fleet) == 40

    async def test_counters_apart_by_a_label_of_requests_are_added(self, fleet: Fleet) -> None:
        """SGLang counts streamed and whole answers apart, and splits by labels of the user's choice."""
        for pod in fleet.pods():
            parts = [
                exposition(
                    {"sglang:num_running_reqs": 3.0, "sglang:num_queue_reqs": 0.0, "sglang:token_usage": 0.1},
                    tp_rank="0",
                )
            ]
            for streaming, tenant, rate in (("true", "a", 2.0), ("false", "a", 1.0), ("true", "b", 4.0)):
                counters = {
                    "prompt_tokens_total": 500 * rate,
                    "generation_tokens_total": 100 * rate,
                    "e2e_request_latency_seconds_count": rate,
                }
                metrics = {f"sglang:{name}": grows(value, LONG_AGO) for name, value in counters.items()}
                parts.append(exposition(metrics, is_streaming=streaming, tenant=tenant))
            fleet.scrape(pod, together(*parts))
        fleet.object(engine="sglang", signals=None, work=COSTS)
        await fleet.tick(4)
        assert fleet.wish("work").value == pytest.approx(4 * 7 * (500 * 0.0002 + 100 * 0.0003), rel=0.02)

    async def test_two_servers_in_one_pod_are_added(self, fleet: Fleet) -> None:
        for pod in fleet.pods():
            fleet.scrape(pod, vllm(6.0, per_second=3.0, since=LONG_AGO, counts_from=100.0), port=8000)
            fleet.scrape(
                pod, vllm(9.0, per_second=4.0, since=LONG_AGO, counts_from=77.0), port=8001, target={"phase": 7.0}
            )
        fleet.object()
        await fleet.tick(6)
        assert in_flight(fleet) == 60
        fleet.object(signals=[{"name": "work", "type": "work", "target": "0.9"}], work=COSTS)
        await fleet.tick(2)
        assert fleet.wish("work").value == pytest.approx(4 * 7 * 0.13, rel=0.02)

    async def test_a_routers_series_of_its_servers_are_its_own(self, fleet: Fleet) -> None:
        """L25."""
        for number, pod in enumerate(fleet.pods()):
            fleet.scrape(pod, vllm(9.0))
            fleet.scrape(
                "router-0", exposition({"vllm:num_requests_running": 9.0}, server=f"http://10.0.0.{number + 1}:8000")
            )
        fleet.object()
        await fleet.tick(3)
        assert in_flight(fleet) == 36


class TestSeriesThatEnd:
    def serve(self, fleet: Fleet, before: Exposes, after: Exposes, at: float, **labels: Any) -> None:
        for pod in fleet.pods():
            fleet.scrape(pod, before, target={"until": at})
            fleet.scrape(pod, after, target={"since": at}, **labels)

    async def test_a_label_added_by_a_reload_neither_doubles_nor_silences(self, fleet: Fleet) -> None:
        """L21."""
        serves = vllm(9.5)
        self.serve(fleet, serves, serves, START + 60, team="search")
        fleet.object()
        for _ in range(12):
            assert await fleet.tick() == [4]
            assert (fleet.wish().state, in_flight(fleet)) == ("fresh", 38)

    async def test_nor_does_it_change_a_rate(self, fleet: Fleet) -> None:
        """L21b: the new series has no rate until its second scrape; the one that it goes on from has."""
        serves = vllm(9.5, kv_cache=0.3, per_second=6.0, since=LONG_AGO)
        self.serve(fleet, serves, serves, START + 60, team="search")
        fleet.object(signals=None, work=COSTS)
        for _ in range(12):
            await fleet.tick()
            assert fleet.wish("work").value == pytest.approx(24 * 0.13, rel=0.03)

    async def test_a_process_that_died_in_a_pod_is_not_counted_beside_its_successor(self, fleet: Fleet) -> None:
        """L17: SGLang's scheduler restarted, with a new pid."""
        for pod in fleet.pods():
            fleet.scrape(pod, lambda time: sglang(9.0, pid="900" if time < START + 20 else "1900")(time))
        fleet.object(engine="sglang", maxReplicas=64)
        assert await fleet.tick(8) == [4] * 8

    async def test_an_engine_of_several_that_ended_is_gone_with_the_next_scrape(self, fleet: Fleet) -> None:
        def serves(time: float) -> Any:
            ranks = range(8) if time < START + 10 else range(4)
            return together(*(vllm(1.0, engine=str(rank)) for rank in ranks))(time)

        for pod in fleet.pods():
            fleet.scrape(pod, serves)
        fleet.object()
        seen = []
        for _ in range(4):
            await fleet.tick()
            seen.append(in_flight(fleet))
        assert seen == [32, 32, 16, 16]

    async def test_a_server_whose_port_does_not_answer_any_more_is_gone(self, fleet: Fleet) -> None:
        """The other server of the pod goes on."""
        for pod in fleet.pods():
            fleet.scrape(pod, sglang(3.0, per_second=1.0, since=LONG_AGO))
            second = sglang(4.0, per_second=2.0, since=LONG_AGO)
            fleet.scrape(pod, second, port=8001, target={"down": lambda time: time > START + 20, "phase": 7.0})
        fleet.object(engine="sglang")
        await fleet.tick(2)
        assert in_flight(fleet) == 28
        await fleet.tick(6)
        assert in_flight(fleet) == 12


class TestWhichPod:
    @pytest.mark.parametrize(
        ("labels", "addresses"),
        [
            pytest.param({"namespace": None}, None, id="no namespace (L05 llm-d-autoscaling#1145)"),
            pytest.param({"namespace": None, "pod": None}, None, id="neither (L06)"),
            pytest.param({"pod": None}, None, id="no pod"),
            pytest.param({"namespace": None, "pod": None}, "[fd00::{}]:8000", id="IPv6 (L08 vllm#41368)"),
            pytest.param({"namespace": None, "pod": None}, "[FD00:0:0:0::{}]:8000", id="IPv6, spelled otherwise"),
            pytest.param({"namespace": None, "pod": None}, "fd00::{}", id="IPv6 without a port"),
            pytest.param({"namespace": None, "pod": None}, "http://10.0.0.{}:8000/metrics", id="an URL"),
            pytest.param({"namespace": None, "pod": None}, "10.0.0.{}", id="no port"),
        ],
    )
    async def test_series_that_name_no_pod_are_joined_by_its_address(
        self, fleet: Fleet, labels: dict[str, Any], addresses: str | None
    ) -> None:
        for number, pod in enumerate(fleet.pods()):
            if addresses and "00::" in addresses.lower().replace("0:0:0:", ""):
                fleet.pod(pod, ip=f"fd00::{number + 1}")
            where: dict[str, Any] = {"instance": addresses.format(number + 1)} if addresses else {}
            fleet.scrape(pod, vllm(15.0, kv_cache=0.3, per_second=1.0, since=LONG_AGO), **labels, **where)
        fleet.object()
        assert await fleet.tick(3) == [6] * 3

    async def test_the_second_address_of_a_pod_is_its_own_too(self, fleet: Fleet) -> None:
        for number in range(4):
            name = f"llm-5d9f-{number}"
            fleet.pod(
                name, ip=f"10.0.0.{number + 1}", podIPs=[{"ip": f"10.0.0.{number + 1}"}, {"ip": f"fd00::{number + 1}"}]
            )
            fleet.scrape(name, vllm(15.0), namespace=None, instance=f"[fd00::{number + 1}]:8000")
        fleet.object()
        assert await fleet.tick(2) == [6, 6]

    async def test_pods_on_one_address_cannot_be_told_apart(self, fleet: Fleet) -> None:
        """Host network: the series of one is not counted for each."""
        for number in range(4):
            name = f"llm-5d9f-{number}"
            fleet.pod(name, ip="192.168.0.7")
            fleet.scrape(name, vllm(15.0), namespace=None, instance=f"192.168.0.7:800{number}")
        fleet.object()
        assert await fleet.tick(3) == [4] * 3
        assert fleet.signal()["state"] == "empty"

    async def test_latencies_are_joined_by_address_too(self, fleet: Fleet) -> None:
        """L12."""
        rates = {"0.5": 0.1, "1.0": 0.2, "5.0": 4.0, "+Inf": 4.0}
        for pod in fleet.pods():
            serves = together(vllm(1.0), histogram("vllm:time_to_first_token_seconds", rates, LONG_AGO))
            fleet.scrape(pod, serves, namespace=None)
        fleet.object(signals=[{"name": "ttft", "type": "timeToFirstToken", "target": 1}])
        await fleet.tick(2)
        assert fleet.signal("ttft")["state"] == "fresh"
        assert fleet.replicas > 4

    async def test_pods_of_two_clusters_under_one_name_are_not_mixed(self, fleet: Fleet) -> None:
        """L18, keda#2667: the other cluster's 0 was taken for 60 in flight; without a matcher neither counts."""
        for pod in fleet.pods():
            fleet.scrape(pod, vllm(30.0), cluster="mine")
            fleet.scrape(pod, vllm(0.0), cluster="other", target={"phase": 7.0})
        fleet.object()
        assert await fleet.tick(8) == [4] * 8
        assert "clusters mine, other" in fleet.signal()["message"]
        assert "prometheus_matchers" in fleet.signal()["message"]


class TestAnothersPods:
    """L27, L27b: a pod of another tenant exposes series that name these."""

    @pytest.mark.parametrize("value", [500.0, -9.5, 0.0])
    @pytest.mark.parametrize("job", ["podmon/evil", "dcgm-exporter"])
    async def test_a_claim_has_no_effect(self, fleet: Fleet, value: float, job: str) -> None:
        for pod in fleet.pods():
            fleet.scrape(pod, vllm(9.5))
            claims = {"namespace": "default", "pod": pod}
            lies = exposition({"vllm:num_requests_running": value, "vllm:num_requests_waiting": 0.0}, **claims)
            fleet.scrape("attacker-0", lies, namespace="evil", job=job, ip="10.6.6.6", target={"phase": 9.0})
        fleet.object()
        assert await fleet.tick(16) == [4] * 16
        assert in_flight(fleet) == 38

    async def test_what_a_device_exporter_says_of_these_pods_counts(self, fleet: Fleet) -> None:
        """L20, dcgm-exporter#27."""
        for number, pod in enumerate(fleet.pods()):
            fleet.scrape(pod, vllm(9.0))
            card = {"UUID": f"GPU-{number}", "gpu": "0", "Hostname": f"n{number}", "namespace": "default", "pod": pod}
            fleet.scrape(
                "dcgm-x",
                exposition({"DCGM_FI_DEV_GPU_UTIL": 55.0}, **card),
                namespace="gpu-operator",
                job="dcgm-exporter",
            )
        fleet.object(signals=[{"name": "gpu", "type": "gpuUtilization", "target": "0.7"}])
        await fleet.tick(2)
        assert fleet.wish("gpu").value == pytest.approx(0.55)

    async def test_a_job_that_is_not_believed_is_named(self, fleet: Fleet) -> None:
        for number, pod in enumerate(fleet.pods()):
            card = {"UUID": f"GPU-{number}", "gpu": "0", "namespace": "default", "pod": pod}
            fleet.scrape(
                "liar", exposition({"DCGM_FI_DEV_GPU_UTIL": 55.0}, **card), namespace="evil", job="podmon/evil"
            )
        fleet.object(signals=[{"name": "gpu", "type": "gpuUtilization", "target": "0.7"}])
        await fleet.tick(2)
        assert fleet.signal("gpu")["state"] == "empty"
        assert "scrape job podmon/evil is not among device_jobs" in fleet.signal("gpu")["message"]


async def test_workers_of_a_group_that_serve_count() -> None:
    """L23, llm-d-modelservice#37: two groups of two pods with 30 requests each; workers that serve nothing are not missed."""
    for serves, expected in ((True, 120), (False, 60)):
        fleet = Fleet()
        fleet.deployment(replicas=2, kind="LeaderWorkerSet", spec={"leaderWorkerTemplate": {"size": 2}})
        for number in range(2):
            for worker, name in enumerate((f"llm-{number}", f"llm-{number}-1")):
                owner = [{"kind": "StatefulSet", "name": "llm", "controller": True}]
                labels: dict[str, Any] = {f"{LWS}/name": "llm", f"{LWS}/worker-index": str(worker)}
                fleet.pod(name, labels=labels, owners=owner, ip=f"10.0.{number}.{worker + 1}")
                if serves or not worker:
                    fleet.scrape(name, vllm(30.0, engine=str(8 * worker)))
        fleet.object(scaleTargetRef={"kind": "LeaderWorkerSet", "name": "llm"}, maxReplicas=4)
        await fleet.tick(2)
        assert (in_flight(fleet), fleet.signal()["state"]) == (expected, "fresh")
        assert fleet.status()["readyReplicas"] == 2
        await fleet.close()

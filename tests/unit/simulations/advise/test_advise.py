"""`headroom advise`: sizes from use, the same pods placed anew, what stands out, and answers to mistakes."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result

from agent.energy.tariff import Tariff
from headroom import wire
from headroom.kube.aio import connect
from headroom.prometheus.client import PrometheusSource
from headroom.prometheus.series import DEVICE_JOBS, DeviceJobs
from simulations.advise.advice import Advice, advise
from simulations.advise.cli import AdviseError, main
from simulations.advise.example import example
from simulations.advise.reading import Export, ReadingError, read_cluster, read_folder
from simulations.advise.replay import described
from simulations.advise.tenants import Rules, Tenant, sized_mib, tenants_of, workload_of
from simulations.advise.use import Use, read_use
from tests.fakes.apiserver import ApiServer
from tests.fakes.prometheus import FakePrometheus

L40S = 46068
RULES = Rules()


def node(name: str = "n", cards: int = 4, slices: int = 1, **labels: str) -> dict[str, Any]:
    shared = (
        {"nvidia.com/gpu.replicas": str(slices), "nvidia.com/gpu.sharing-strategy": "time-slicing"}
        if slices > 1
        else {}
    )
    found = {
        "nvidia.com/gpu.product": "NVIDIA-L40S",
        "nvidia.com/gpu.memory": str(L40S),
        "nvidia.com/gpu.count": str(cards),
    }
    amounts = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": str(cards * slices)}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": {**found, **shared, **labels}},
        "status": {"allocatable": amounts},
    }


def pod(name: str, node: str = "n", limits: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    limits = limits if limits is not None else {"nvidia.com/gpu": "1"}
    owner = {"kind": "ReplicaSet", "name": f"{name}-5d4f8c7b9d", "uid": "rs", "controller": True}
    return {
        "kind": "Pod", "metadata": {"name": name, "namespace": "ai", "uid": f"uid-{name}", "ownerReferences": [owner]},
        "spec": {"nodeName": node, "containers": [{"name": "server", "resources": {"limits": limits}}], **spec},
        "status": {"phase": "Running"},
    }  # fmt: skip


def export_of(*objects: dict[str, Any]) -> Export:
    export = Export()
    for one in objects:
        export.add(one["kind"], msgspec.json.encode(one))
    assert export.unread == []
    return export


def advice(*objects: dict[str, Any], use: dict[str, Use] | None = None, **prices: float) -> Advice:
    return advise(export_of(*objects), use or {}, Tariff(currency="$", card_hour_prices=prices), RULES)


def tenant(use: Use | None, limits: dict[str, str] | None = None) -> Tenant:
    export = export_of(node(), pod("a", limits=limits))
    (found,), _ = tenants_of(export.pods, described(export.nodes, []), {"ai/a": use} if use else {}, [])
    return found


class TestSizes:
    @pytest.mark.parametrize(
        ("use", "limits", "gib"),
        [
            (Use(10_000, 0.0), None, 12),  # 10,000 MiB and 15 %, in whole GiB
            (Use(10_000, 0.5), None, 28),  # busy half of the time that pods may need together
            (Use(200, 0.0), None, 1),
            (Use(40_000, 0.0), None, None),  # 15 % more is a whole card
            (Use(4_000, 0.9), None, None),  # busy all the time: a card of its own
            (None, None, None),  # nothing tells
            (None, {"headroom.dev/vram": "20Gi"}, 20),  # what it states
            (Use(10_000, 0.0), {"headroom.dev/vram": "20Gi"}, 12),  # far less than it states
            (Use(30_000, 0.0), {"headroom.dev/vram": "20Gi"}, 20),  # never more than it states
            (Use(10_000, 0.0), {"nvidia.com/gpu": "2"}, None),  # spans cards
        ],
    )
    def test_a_size_follows_memory_and_time(
        self, use: Use | None, limits: dict[str, str] | None, gib: int | None
    ) -> None:
        assert sized_mib(tenant(use, limits), RULES) == (gib * 1024 if gib else None)

    def test_pods_that_share_a_card_never_need_more_of_its_time_than_the_limit(self) -> None:
        export, use = example(3)
        found = advise(export, use, Tariff(), RULES)
        for pods in found.then.cards.values():
            busy = [found.tenants[index].use for index, _ in pods if len(pods) > 1]
            assert sum(one.busy_high or 0.0 for one in busy if one is not None) <= RULES.busy_limit + 1e-9


class TestReplay:
    def test_small_pods_on_whole_cards_share_one(self) -> None:
        use = {f"ai/p{at}": Use(8_000, 0.1) for at in range(4)}
        found = advice(node(), *(pod(f"p{at}") for at in range(4)), use=use, **{"NVIDIA-L40S": 2.0})
        assert (found.held, found.would) == (4, 1)
        assert found.month_saved == 3 * 2.0 * 730

    def test_without_use_whole_cards_stay_whole(self) -> None:
        found = advice(node(), *(pod(f"p{at}") for at in range(3)))
        assert (found.held, found.would, found.month_saved) == (3, 3, None)

    def test_no_card_is_given_more_than_it_has(self) -> None:
        export, use = example(11, scale=3)
        found = advise(export, use, Tariff(), RULES)
        for (name, at), pods in found.then.cards.items():
            assert sum(mib for _, mib in pods) <= found.nodes[name].cards[at].usable_mib
        placed = {index for pods in found.then.cards.values() for index, _ in pods}
        assert placed | set(found.then.unplaced) == set(range(len(found.tenants)))

    def test_a_pod_stays_on_its_card_model_and_its_nodes(self) -> None:
        bigger: dict[str, Any] = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu.memory": "81920"}
        other = node("m", **bigger)
        pool = node("pool", team="blue")
        use = {"ai/a": Use(8_000, 0.1), "ai/b": Use(8_000, 0.1), "ai/c": Use(8_000, 0.1)}
        bound = pod("c", "pool", nodeSelector={"team": "blue"})
        found = advice(node(), other, pool, pod("a"), pod("b", "m"), bound, use=use)
        where = {
            found.tenants[index].pod.metadata.name: name
            for (name, _), pods in found.then.cards.items()
            for index, _ in pods
        }
        assert where["b"] == "m"
        assert where["c"] == "pool"

    def test_what_cannot_be_placed_anew_keeps_its_cards(self) -> None:
        crowd = {"kind": "Pod", "metadata": {"name": "cpu", "namespace": "ai", "uid": "cpu"}, "status": {"phase": "Running"},
                 "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"requests": {"cpu": "63"}}}]}}  # fmt: skip
        hungry = pod("a", limits={"nvidia.com/gpu": "1", "cpu": "4"})
        found = advice(node(), crowd, hungry, use={"ai/a": Use(8_000, 0.1)})
        assert found.then.unplaced == [0]
        assert (found.held, found.would) == (1, 1)

    def test_finished_and_waiting_pods_hold_nothing(self) -> None:
        done = {**pod("done"), "status": {"phase": "Succeeded"}}
        found = advice(node(), done, pod("waits", node=""))
        assert (found.held, found.waiting) == (0, 1)


class TestFindings:
    def test_a_deployment_that_asks_for_too_much_gets_a_patch(self) -> None:
        found = advice(node(), pod("a"), use={"ai/a": Use(8_000, 0.1)})
        (one,) = found.findings.over_asking
        assert (one.workload, one.asks, one.wanted_mib) == ("ai/Deployment/a", "a whole card", 9 * 1024)
        assert one.patch is not None
        (container,) = one.patch["spec"]["template"]["spec"]["containers"]
        assert container == {
            "name": "server",
            "resources": {
                "limits": {"nvidia.com/gpu": None, "headroom.dev/vram": "9Gi"}, "requests": {"nvidia.com/gpu": None},
            },
        }  # fmt: skip
        assert one.kubectl.startswith("kubectl -n ai patch deployment a -p '{")

    def test_a_pod_of_nobody_cannot_be_patched(self) -> None:
        bare = pod("a")
        del bare["metadata"]["ownerReferences"]
        (one,) = advice(node(), bare, use={"ai/a": Use(8_000, 0.1)}).findings.over_asking
        assert (one.patch, one.kubectl) == (None, "")

    def test_a_little_less_is_not_worth_a_patch(self) -> None:
        assert advice(node(), pod("a"), use={"ai/a": Use(30_000, 0.1)}).findings.over_asking == []

    def test_cards_that_idle_are_named(self) -> None:
        found = advice(node(), pod("a"), pod("b"), use={"ai/a": Use(8_000, 0.01), "ai/b": Use(8_000, 0.5)})
        assert found.findings.idle == [("ai/Deployment/a", 1)]

    def test_slices_without_sizes_and_cards_too_full_are_risks(self) -> None:
        pods = [pod(f"p{at}") for at in range(2)]
        use = {"ai/p0": Use(30_000, 0.1), "ai/p1": Use(30_000, 0.1)}
        text = "\n".join(advice(node(cards=1, slices=4), *pods, use=use).findings.risks)
        assert "2 pods share 1 time-sliced cards and state no memory" in text
        assert "card 0 of node n: its 2 pods used up to 58.6 GiB together" in text

    def test_an_hpa_on_cpu_is_a_risk(self) -> None:
        hpa = {"kind": "HorizontalPodAutoscaler", "metadata": {"name": "h", "namespace": "ai"},
               "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "a"}, "metrics": [{"type": "Resource"}]}}  # fmt: skip
        assert "HPA h scales ai/Deployment/a on CPU" in advice(node(), pod("a"), hpa).findings.risks[0]

    def test_what_is_not_understood_is_named_and_costs_nothing_else(self) -> None:
        broken = pod("broken", limits={"headroom.dev/vram": "much"})
        found = advice(node(), broken, pod("a"))
        assert found.held == 1
        assert "ai/broken" in found.problems[0]


@pytest.mark.parametrize(
    ("owner", "workload"),
    [
        ({"kind": "ReplicaSet", "name": "llm-5d4f8c7b9d", "controller": True}, "ai/Deployment/llm"),
        ({"kind": "StatefulSet", "name": "llm", "controller": True}, "ai/StatefulSet/llm"),
        ({"kind": "Workflow", "name": "w"}, "ai/Pod/p"),
    ],
)
def test_the_owner_that_people_know(owner: dict[str, Any], workload: str) -> None:
    found = wire.POD.decode(
        msgspec.json.encode({"metadata": {"name": "p", "namespace": "ai", "ownerReferences": [owner]}})
    )
    assert workload_of(found) == workload


class TestReading:
    def test_kubectls_lists_and_single_objects_in_yaml_and_json(self, tmp_path: Path) -> None:
        (tmp_path / "cluster.json").write_text(json.dumps({"kind": "List", "items": [node("a"), pod("p", "a")]}))
        typed = {"kind": "NodeList", "items": [{key: value for key, value in node("b").items() if key != "kind"}]}
        (tmp_path / "more.yaml").write_text(yaml.safe_dump_all([typed, node("c"), {"kind": "Service", "metadata": {}}]))
        export = read_folder(tmp_path)
        assert sorted(one.metadata.name for one in export.nodes) == ["a", "b", "c"]
        assert [one.metadata.name for one in export.pods] == ["p"]

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("x.json", "{", "is neither YAML nor JSON"),
            ("x.yaml", "kind: Pod\nmetadata: {name: p}", "no node in it; export some with: kubectl"),
        ],
    )
    def test_a_folder_that_is_no_export(self, tmp_path: Path, name: str, text: str, said: str) -> None:
        (tmp_path / name).write_text(text)
        with pytest.raises(ReadingError, match=said):
            read_folder(tmp_path)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ReadingError, match=r"holds no \.yaml"):
            read_folder(tmp_path)

    async def test_an_api_server_is_read_page_by_page(self, tmp_path: Path) -> None:
        async with ApiServer() as api:
            for at in range(3):
                api.put("/api/v1/nodes", node(f"n{at}"))
            api.put("/api/v1/pods", pod("p", "n1"))
            api.fail("GET", "/horizontalpodautoscalers$", status=403, times=9)
            api.write_kubeconfig(tmp_path / "kubeconfig")
            kube = await connect(str(tmp_path / "kubeconfig"))
            export = await read_cluster(kube)
            await kube.close()
        assert len(export.nodes) == 3
        assert len(export.pods) == 1
        assert "horizontalpodautoscalers cannot be listed" in export.unread[0]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_the_example_needs_nothing(tmp_path: Path) -> None:
    page, patches = tmp_path / "advice.html", tmp_path / "patches"
    result = run("--example", "--page", str(page), "--patches", str(patches))
    assert result.exit_code == 0, result.exception
    assert "running pods hold" in result.output
    assert "a month" in result.output
    assert "cards are held" in page.read_text()
    patch = yaml.safe_load((patches / "chat.deployment.chat-llama-8b.yaml").read_text())
    assert patch["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["headroom.dev/vram"] == "20Gi"


def test_programs_get_the_same_figures_as_people(tmp_path: Path) -> None:
    values = json.loads(run("--example", "-o", "json").stdout)
    first = run("--example").output.splitlines()[0]
    assert f"hold {values['cards']['held']} of" in first
    assert f"would need {values['cards']['wouldDo']}:" in first
    assert sum(line["held"] for line in values["models"]) == values["cards"]["held"]
    assert all(len(card["pods"]) > 1 for card in values["sharedCards"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--example", "--from", "x"), "--example and --from: one of them"),
        (("--example", "--price", "L40S"), "--price L40S: not MODEL=PRICE"),
        (("--example", "--price", "L40S=cheap"), "--price L40S=cheap: not MODEL=PRICE"),
        (("--from", "/no/such/folder"), "/no/such/folder: cannot be read"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, AdviseError | ReadingError)
    assert said in str(result.exception)


class TestUse:
    async def read(self, prometheus: FakePrometheus) -> dict[str, Use]:
        async with prometheus.serve():
            source = PrometheusSource(prometheus.url)
            try:
                return await read_use(source, "604800s", DeviceJobs(DEVICE_JOBS))
            finally:
                await source.close()

    async def test_dcgm_speaks_of_other_pods_from_a_job_that_is_believed(self) -> None:
        prometheus = FakePrometheus()
        of = {"exported_namespace": "ai", "exported_pod": "a", "namespace": "gpu-operator", "pod": "dcgm-x"}
        trusted, stranger = (
            {**of, "job": "nvidia-dcgm-exporter"},
            {**of, "exported_pod": "b", "namespace": "tenant", "job": "evil"},
        )
        prometheus.answer("max_over_time.*DCGM_FI_DEV_FB_USED", (trusted, [(1.0, 9000.0)]), (stranger, [(1.0, 1.0)]))
        prometheus.answer("quantile_over_time.*DCGM_FI_DEV_GPU_UTIL", (trusted, [(1.0, 40.0)]))
        found = await self.read(prometheus)
        assert found["ai/a"] == Use(9000, 0.4)
        assert "ai/b" not in found

    async def test_the_busiest_card_of_a_pod_counts_and_nonsense_does_not(self) -> None:
        prometheus = FakePrometheus()
        label = {"namespace": "ai", "pod": "a", "job": "dcgm-exporter"}
        prometheus.answer(
            "max_over_time.*DCGM_FI_DEV_FB_USED",
            ({**label, "gpu": "0"}, [(1.0, 5000.0)]), ({**label, "gpu": "1"}, [(1.0, 7000.0)]), ({**label, "gpu": "2"}, [(1.0, 9.2e18)]),
        )  # fmt: skip
        assert (await self.read(prometheus))["ai/a"].peak_mib == 7000

    async def test_the_agents_own_figure_is_believed_before_dcgms(self) -> None:
        prometheus = FakePrometheus()
        label = {"namespace": "ai", "pod": "a", "job": "dcgm-exporter"}
        prometheus.answer("max_over_time.*DCGM_FI_DEV_FB_USED", (label, [(1.0, 40_000.0)]))
        prometheus.answer(
            "headroom_pod_memory_used_bytes", ({**label, "job": "headroom-agent"}, [(1.0, 8000.0 * 2**20)])
        )
        assert (await self.read(prometheus))["ai/a"].peak_mib == 8000

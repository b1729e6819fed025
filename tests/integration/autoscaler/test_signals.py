"""What is read of series by a real Prometheus: kinds of labels, intervals and silence that were seen to be misread.

`filled`: many situations in one Prometheus, their samples written as scrapes of the last quarter of an hour. `Live`: exporters
that a Prometheus scrapes every second, for what Prometheus itself does: renamed labels, reloads, ends of series, `up`.
"""

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from autoscaler.law.inputs import Freshness
from headroom.prometheus.client import PrometheusSource
from simulations.kwok.process import free_port
from simulations.kwok.prometheus import PrometheusServer
from simulations.usage.hour import prometheus_of
from tests.fakes.fleet import Fleet
from tests.fakes.scraping import Exposes, ScrapedPrometheus, Target, exposition, histogram, sglang, together, vllm

WORK = {"secondsPerPromptToken": "0.0002", "secondsPerOutputToken": "0.0003"}
PODS = 4
EACH = 0.13
"""GPU seconds of a request of the emulated vLLM."""


# Situations: for each pod the targets that see it


def interval(every: float) -> Callable[[str, int, float], list[Target]]:
    def targets(name: str, pod: int, end: float) -> list[Target]:
        return [
            target(
                name,
                pod,
                vllm(9.0, kv_cache=0.3, per_second=5.0, since=end - 9000),
                every=every,
                phase=1 + pod * every / PODS,
            )
        ]

    return targets


def twice(every: float = 15.0, **second: str) -> Callable[[str, int, float], list[Target]]:
    def targets(name: str, pod: int, end: float) -> list[Target]:
        serves = vllm(9.0, kv_cache=0.3, per_second=5.0, since=end - 9000 - 100 * pod)
        return [target(name, pod, serves), target(name, pod, serves, every=every, phase=7.0, **second)]

    return targets


def target(name: str, number: int, exposes: Exposes, every: float = 15.0, phase: float = 2.0, **labels: str) -> Target:
    where = {"namespace": "default", "pod": f"{name}-5d9f-{number}", "instance": f"{address(name, number)}:8000"}
    whole = {**where, "job": "podmon/llm", **labels}
    return Target({label: value for label, value in whole.items() if value}, exposes, every, phase)


def address(name: str, pod: int) -> str:
    return f"10.{list(SITUATIONS).index(name)}.0.{pod + 1}"


def by_address(name: str, pod: int, end: float) -> list[Target]:
    rates = {"0.5": 1.0, "1.0": 3.0, "+Inf": 4.0}
    serves = together(
        vllm(9.0, kv_cache=0.3, per_second=5.0, since=end - 9000),
        histogram("vllm:time_to_first_token_seconds", rates, end - 9000),
    )
    return [target(name, pod, serves, namespace="", pod="")]


def servers(name: str, pod: int, end: float) -> list[Target]:
    first = vllm(4.0, kv_cache=0.3, per_second=2.0, since=end - 9000, counts_from=100.0)
    second = vllm(5.0, kv_cache=0.3, per_second=3.0, since=end - 9000, counts_from=77.0)
    return [target(name, pod, first), target(name, pod, second, phase=7.0, instance=f"{address(name, pod)}:8001")]


def ranks(name: str, pod: int, end: float) -> list[Target]:
    serves = [
        sglang(9.0, per_second=5.0 if not rank else None, since=end - 9000, tp_rank=str(rank)) for rank in range(4)
    ]
    return [target(name, pod, together(*serves))]


def prefixed(name: str, pod: int, end: float) -> list[Target]:
    return [target(name, pod, vllm(9.0, kv_cache=0.3, per_second=5.0, since=end - 9000, prefix="llmd_vllm:"))]


def unlabelled(name: str, pod: int, end: float) -> list[Target]:
    return [target(name, pod, exposition({"headroom_fastchat_queue_length": 9.0}), namespace="", instance="llm")]


def behind_gateways(name: str, pod: int, end: float) -> list[Target]:
    """An endpoint picker of llm-d that exports both generations of its names, and a frontend of Dynamo, beside the pods."""
    engines = [target(name, pod, vllm(9.0, kv_cache=0.3, per_second=5.0, since=end - 9000))]
    if pod:
        return engines
    queued = [
        exposition(
            {f"{prefix}_flow_control_queue_size": count}, inference_pool="chat", priority=priority, fairness_id=tenant
        )
        for prefix in ("llm_d_epp", "inference_extension")
        for count, priority, tenant in ((7.0, "0", "a"), (5.0, "2", "b"), (90.0, "-1", "batch"))
    ]
    quiet = exposition({"llm_d_epp_flow_control_pool_saturation": 1.0}, inference_pool="quiet", stage="effective")
    frontend = exposition(
        {"dynamo_frontend_queued_requests": 20.0, "dynamo_frontend_inflight_requests": 4 * 9.0 + 6}, model="org/chat-8b"
    )
    epp = {"namespace": "default", "pod": "chat-epp-0", "instance": "10.9.0.1:9090", "job": "epp"}
    picker = together(*queued, quiet)
    return [
        *engines,
        Target(epp, picker),
        Target({**epp, "replica": "b"}, picker, phase=5.0),
        Target({**epp, "pod": "frontend-0", "instance": "10.9.0.2:8000"}, frontend),
        Target({**epp, "namespace": "evil", "pod": "evil-0"}, picker),
    ]


SITUATIONS: dict[str, Callable[[str, int, float], list[Target]]] = {
    **{f"every-{every:.0f}": interval(every) for every in (15.0, 30.0, 60.0, 120.0)},  # T01, T13
    "annotations": twice(job="kubernetes-pods", app="llm", node="n", pod_template_hash="5d9f"),  # L02
    "replicas": twice(replica="b"),  # L04
    "mesh": twice(instance="10.0.0.9:15020", job="istio"),
    "slower": twice(every=60.0, job="other", team="search"),
    "address": by_address,  # L05, L12
    "servers": servers,
    "ranks": ranks,  # L15
    "prefixed": prefixed,  # L10
    "unlabelled": unlabelled,
    "gateways": behind_gateways,
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("signals")
    end = time.time()
    model = ScrapedPrometheus(end)
    for name, targets in SITUATIONS.items():
        for pod in range(PODS):
            model.targets += targets(name, pod, end)
    lines: dict[str, list[str]] = {}
    for one in model.targets:
        for key, points in one.series(end).items():
            labels = dict(key)
            shown = ",".join(f'{label}="{value}"' for label, value in labels.items() if label != "__name__")
            lines.setdefault(labels["__name__"], []).extend(
                f"{labels['__name__']}{{{shown}}} {value!r} {at:.3f}" for at, value in points
            )
    metrics = folder / "signals.om"
    metrics.write_text("".join(f"{line}\n" for found in lines.values() for line in found) + "# EOF\n")
    with prometheus_of(metrics, folder) as url:
        yield url


@pytest.fixture
async def fleet(filled: str) -> AsyncIterator[Fleet]:
    source = PrometheusSource(filled)
    made = Fleet(source=source, start=time.time())
    yield made
    assert made.failures() == 0
    await made.close()
    await source.close()


def situated(fleet: Fleet, name: str, **spec: Any) -> None:
    fleet.deployment(name, replicas=PODS)
    for pod in range(PODS):
        fleet.pod(f"{name}-5d9f-{pod}", name, ip=address(name, pod))
    fleet.object(name, **{"signals": None, "work": WORK, **spec})


async def looked(fleet: Fleet) -> None:
    fleet.now = time.time()
    fleet.prometheus.now = fleet.now
    fleet.outcomes = await fleet.daemon.loop.tick()


class TestReading:
    @pytest.mark.parametrize(
        "name",
        [
            "every-15",
            "every-30",
            "every-60",
            "every-120",
            "annotations",
            "replicas",
            "mesh",
            "slower",
            "address",
            "servers",
        ],
    )
    async def test_each_request_counts_once_at_any_interval(self, fleet: Fleet, name: str) -> None:
        situated(fleet, name)
        await looked(fleet)
        await looked(fleet)  # at first the interval is not known
        wish = fleet.wish("work", name)
        assert (wish.state, wish.value) == (Freshness.FRESH, pytest.approx(PODS * 5 * EACH, rel=0.02))
        assert fleet.wish("kvCache", name).value == pytest.approx(0.3)

    async def test_ranks_repeat_a_count(self, fleet: Fleet) -> None:
        situated(fleet, "ranks", engine="sglang", signals=[{"name": "running", "type": "running", "target": 10}])
        await looked(fleet)
        assert fleet.wish("running", "ranks").value == PODS * 9

    async def test_latencies_are_joined_by_address(self, fleet: Fleet) -> None:
        situated(
            fleet, "address", signals=[{"name": "ttft", "type": "timeToFirstToken", "target": 2, "quantile": "0.5"}]
        )
        await looked(fleet)
        assert fleet.wish("ttft", "address").value == pytest.approx(0.75)

    async def test_a_prefix_is_found(self, fleet: Fleet) -> None:
        situated(fleet, "prefixed")
        await looked(fleet)
        await looked(fleet)
        assert 'metricNames {"vllm:*": "llmd_vllm:*"} would read them' in fleet.wish("kvCache", "prefixed").detail
        situated(fleet, "prefixed", metricNames={"vllm:*": "llmd_vllm:*"})
        await looked(fleet)
        assert fleet.wish("work", "prefixed").value == pytest.approx(PODS * 5 * EACH, rel=0.02)

    async def test_what_lacks_is_named(self, fleet: Fleet) -> None:
        situated(fleet, "unlabelled", engine="fastchat", work=None)
        await looked(fleet)
        assert "namespace missing" in fleet.signal("running", "unlabelled")["message"]


@pytest.mark.parametrize(
    ("gateway", "state", "waiting", "reason"),
    [
        pytest.param({"type": "llm-d", "pool": "chat"}, "fresh", 12, "Reporting", id="each request once"),
        pytest.param(
            {"type": "llm-d", "pool": "chat", "offline": "Count"}, "fresh", 102, "Reporting", id="offline too"
        ),
        pytest.param({"type": "llm-d", "pool": "quiet"}, "fresh", 0, "Reporting", id="before its first request"),
        pytest.param({"type": "llm-d", "pool": "gone"}, "empty", 0, "PoolUnknown", id="a pool that is gone"),
        pytest.param({"type": "llm-d", "pool": "chat", "namespace": "x"}, "empty", 0, "GatewayAway", id="away"),
        pytest.param({"type": "dynamo", "model": "Org/Chat-8B"}, "fresh", 6, "Reporting", id="what no worker has"),
    ],
)
async def test_what_waits_in_a_gateway(
    fleet: Fleet, gateway: dict[str, str], state: str, waiting: float, reason: str
) -> None:
    """The queries of docs/gateways.md on a real Prometheus: two servers see the picker, another tenant has the same pool."""
    situated(fleet, "gateways", signals=[{"name": "running", "type": "running", "target": 10}], gateway=gateway)
    await looked(fleet)
    wish = fleet.wish("gateway", "gateways")
    assert (wish.state, wish.value) == (state, waiting), wish.detail
    condition = next(c for c in fleet.status("gateways")["conditions"] if c["type"] == "GatewayKnown")
    assert condition["reason"] == reason
    assert fleet.wish("running", "gateways").value == PODS * 9 + waiting


class Live:
    """Exporters at paths of one port, and a Prometheus that scrapes them every second."""

    def __init__(self, folder: Path) -> None:
        self.pages: dict[str, str] = {}
        self._folder, self._server = folder, PrometheusServer(folder / "prometheus", free_port())
        self._config = folder / "prometheus" / "prometheus.yml"
        self.targets: list[dict[str, Any]] = []

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{page}", self._page)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        self._write({})
        self._process = subprocess.Popen(self._server.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.source = PrometheusSource(self._server.url)

    async def _page(self, request: web.Request) -> web.Response:
        text = self.pages.get(request.match_info["page"])
        return web.Response(text=text) if text is not None else web.Response(status=503)

    def _write(self, extra: dict[str, str]) -> None:
        static = [
            {"targets": [f"127.0.0.1:{self._port}"], "labels": {"__metrics_path__": f"/{page}", **labels, **extra}}
            for page, labels in self.scraped.items()
        ]
        jobs = [{"job_name": "podmon/llm", "honor_labels": False, "static_configs": static}]
        self._config.write_text(
            yaml.safe_dump({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs})
        )

    scraped: dict[str, dict[str, str]]

    def reload(self, **extra: str) -> None:
        """Another label for every target."""
        self._write(extra)
        self._process.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        self._process.terminate()
        await asyncio.to_thread(self._process.wait)
        await self.source.close()
        await self._runner.cleanup()


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    made = Live(tmp_path)
    made.scraped = {}
    for pod in range(PODS):
        made.scraped[f"llm-{pod}"] = {
            "namespace": "default",
            "pod": f"llm-5d9f-{pod}",
            "instance": f"10.0.0.{pod + 1}:8000",
        }
    made.scraped["evil"] = {"namespace": "evil", "pod": "attacker-0", "instance": "10.6.6.6:80"}
    await made.start()
    yield made
    await made.stop()


async def watched(live: Live, engine: str = "vllm", **spec: Any) -> Fleet:
    fleet = Fleet(source=live.source, start=time.time())
    fleet.deployment(replicas=PODS)
    fleet.pods(PODS)
    fleet.object(engine=engine, **spec)
    return fleet


async def rounds(fleet: Fleet, seconds: float) -> list[tuple[str, float]]:
    """(state, value) of the running requests, looked at twice a second."""
    seen = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await looked(fleet)
        wish = fleet.wish("running")
        seen.append((str(wish.state), wish.value))
        await asyncio.sleep(0.5)
    return seen


async def until(fleet: Fleet, value: float) -> None:
    """Until every pod has been scraped."""
    for _ in range(60):
        await looked(fleet)
        wish = fleet.wish("running")
        if (wish.state, wish.value) == (Freshness.FRESH, value):
            return
        await asyncio.sleep(0.5)
    raise AssertionError(fleet.status())


def page(running: float, **labels: str) -> str:
    shown = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"vllm:num_requests_running{{{shown}}} {running}\nvllm:num_requests_waiting{{{shown}}} 0\n"


class TestLive:
    async def test_another_tenants_claims_have_no_effect(self, live: Live) -> None:
        """L27: Prometheus renames its labels to `exported_...`."""
        for pod in range(PODS):
            live.pages[f"llm-{pod}"] = page(9.5)
        live.pages["evil"] = "".join(page(-9.5, namespace="default", pod=f"llm-5d9f-{pod}") for pod in range(PODS))
        fleet = await watched(live)
        await until(fleet, 38)
        assert set(await rounds(fleet, 6)) == {("fresh", 38.0)}
        assert fleet.replicas == PODS
        await fleet.close()

    async def test_a_reload_neither_doubles_nor_silences(self, live: Live) -> None:
        """L21."""
        for pod in range(PODS):
            live.pages[f"llm-{pod}"] = page(9.5)
        fleet = await watched(live)
        await until(fleet, 38)
        before = await rounds(fleet, 3)
        live.reload(team="search")
        after = await rounds(fleet, 12)
        assert {*before, *after} == {("fresh", 38.0)}
        answer = await live.source.query('count(vllm:num_requests_running{team="search"})')
        assert answer[0].points[0][1] == PODS
        await fleet.close()

    async def test_an_engine_that_ended_is_gone_with_the_next_scrape(self, live: Live) -> None:
        for pod in range(PODS):
            live.pages[f"llm-{pod}"] = page(3, engine="0") + page(4, engine="1")
        fleet = await watched(live)
        await until(fleet, PODS * 7)
        for pod in range(PODS):
            live.pages[f"llm-{pod}"] = page(3, engine="0")
        seen = await rounds(fleet, 6)
        assert seen[-1] == ("fresh", PODS * 3.0)
        await fleet.close()

    async def test_an_engine_without_a_request_is_idle_as_long_as_it_is_scraped(self, live: Live) -> None:
        """T07d: TGI gives an empty answer; a target that does not answer is not idle."""
        for pod in range(PODS):
            live.pages[f"llm-{pod}"] = ""
        fleet = await watched(
            live, "tgi", signals=[{"name": "running", "type": "running", "target": 10}], minReplicas=PODS
        )
        await until(fleet, 0)
        assert set(await rounds(fleet, 3)) == {("fresh", 0.0)}
        for pod in range(PODS):
            del live.pages[f"llm-{pod}"]
        assert (await rounds(fleet, 5))[-1][0] == "empty"
        await fleet.close()

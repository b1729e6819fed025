"""Puts the autoscaler's parts together: watches, election, the tick, the pages."""

import asyncio
import contextlib
import ctypes
import gc
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from autoscaler.adapters.actuator import Actuator
from autoscaler.adapters.collector import Collector
from autoscaler.adapters.complaints import Complaints
from autoscaler.adapters.fit_client import FitClient
from autoscaler.adapters.kinds import Kinds
from autoscaler.adapters.scales import Scales
from autoscaler.api import resource
from autoscaler.metrics import AutoscalerMetrics
from autoscaler.observation.cluster import objects
from autoscaler.observation.cluster.workloads import BUILT_IN, WorkloadDecoder
from autoscaler.observation.cluster.world import USUAL, World, scoped
from autoscaler.settings import AutoscalerSettings, metric_names
from autoscaler.tick.outcome import Outcome
from autoscaler.tick.tick import Loop
from headroom.daemon.guard import Guard
from headroom.daemon.logs import get_logger
from headroom.daemon.pages import Health, serving
from headroom.errors import HeadroomError
from headroom.kube.aio import connect
from headroom.kube.client import KubeClient, KubeError, NotFound
from headroom.kube.lease import Elector, wall_clock
from headroom.kube.reflector import Reflector
from headroom.names import API_VERSION, PLURAL_AUTOSCALER
from headroom.prometheus.client import PrometheusSource
from headroom.prometheus.series import DeviceJobs, Source

log = get_logger(__name__)

_OTHER_APIS_SECONDS: Final = 60.0
_PATIENCE_SECONDS: Final = 30.0
"""How long a single round waits for the API server."""
_M_ARENA_MAX: Final = -8  # from malloc.h
_M_MMAP_THRESHOLD: Final = -3


class NotListedError(HeadroomError):
    """The API server did not say in time what there is."""


def _elector(kube: KubeClient, settings: AutoscalerSettings, identity: str) -> Elector:
    return Elector(
        kube,
        namespace=settings.lease_namespace,
        name=settings.lease_name,
        identity=identity,
        duration_seconds=settings.lease_seconds,
        renew_seconds=settings.lease_seconds / 5,
    )


class AutoscalerDaemon:
    """All parts over one API connection. `run` follows the cluster until cancelled; `once` makes a single round."""

    def __init__(
        self,
        kube: KubeClient,
        settings: AutoscalerSettings,
        *,
        alone: bool = False,
        source: Source | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        """`alone`: act without an election, as a single round by hand does. `source`: in place of the settings' Prometheus."""
        self.settings, self._kube, self.alone = settings, kube, alone
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.metrics = AutoscalerMetrics(registry)
        self._guard = Guard(lambda where: self.metrics.tick_failures.labels(where).inc())
        self.health = Health(registry)
        self.world = World(metric_names(settings), usual_objectives=settings.default_objective == "engine")
        identity = settings.identity or f"{socket.gethostname()}-{secrets.token_hex(3)}"
        self.elector = _elector(kube, settings, identity)
        self._source: PrometheusSource | None = None
        if source is None:
            source = self._source = PrometheusSource.of(settings)
        self._fit = (
            FitClient(settings.extender_url, settings.extender_timeout_seconds) if settings.extender_url else None
        )
        self.loop = Loop(
            self.world,
            Collector(
                source,
                short_seconds=settings.short_mean_seconds,
                long_seconds=settings.long_mean_seconds,
                timeout_seconds=settings.prometheus_timeout_seconds,
                jobs=DeviceJobs(settings.device_jobs),
                wall_clock=unix_clock,
            ),
            Actuator(
                kube,
                self.metrics,
                may_write=self.may_write,
                writers=settings.writers,
                instance=identity,
                clock=wall_clock,
            ),
            settings,
            self.metrics,
            fit=self._fit,
            scales=Scales(kube, self.world),
            complaints=Complaints(kube, monotonic),
            may_write=self.may_write,
            guard=self._guard,
            monotonic=monotonic,
            wall_clock=unix_clock,
        )
        self._reflectors = self._make_reflectors(settings.namespace)
        for name in self._reflectors:
            self.health.set_ready(name, ready=False, detail="not listed yet")

    def may_write(self) -> bool:
        """Whether this process is the one that acts."""
        return self.alone or self.elector.is_leader

    def _make_reflectors(self, namespace: str) -> dict[str, Reflector[Any]]:
        kube, world = self._kube, self.world
        found: dict[str, Reflector[Any]] = {
            "inferenceautoscalers": Reflector(
                kube,
                scoped(f"/apis/{API_VERSION}", namespace, PLURAL_AUTOSCALER),
                resource.DECODER,
                world.on_resource,
                on_broken=world.on_broken_resource,
            ),
            "pods": Reflector(kube, scoped("/api/v1", namespace, "pods"), objects.POD_VIEW, world.on_pod),
            "horizontalpodautoscalers": Reflector(
                kube,
                scoped("/apis/autoscaling/v2", namespace, "horizontalpodautoscalers"),
                objects.OTHER_SCALER,
                world.on_other_scaler,
            ),
        }
        for kind in BUILT_IN:
            served = USUAL[kind]
            found[served.plural] = Reflector(kube, served.listed(namespace), WorkloadDecoder(kind), world.on_workload)
        return found

    async def run(self) -> None:
        """Follow the cluster, and decide every tick; act while leading."""
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._start(tasks, [])
                _tune_collector()
                tasks.create_task(self._guard.keep("lease", self.elector.run))
                tasks.create_task(self._guard.keep("tick", self._ticks))
        finally:
            await self.elector.release()

    async def once(self) -> Mapping[str, Outcome]:
        """One round without election; a single person's act, so it writes unless `dry_run`.

        Raises NotListedError when the cluster cannot be read.
        """
        self.alone = True
        listed, outcomes = False, dict[str, Outcome]()
        async with asyncio.TaskGroup() as tasks:
            started: list[asyncio.Task[None]] = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._start(tasks, started)
                    listed = True
            if listed:
                outcomes = await self.loop.tick()
            for task in started:
                task.cancel()
        if not listed:
            missing = ", ".join(name for name, reflector in self._reflectors.items() if not reflector.has_synced)
            raise NotListedError(f"the API server has not listed {missing} within {_PATIENCE_SECONDS:.0f} s")
        return outcomes

    async def close(self) -> None:
        """Release what is not the API connection."""
        if self._source is not None:
            await self._source.close()
        if self._fit is not None:
            await self._fit.close()

    async def _start(self, tasks: asyncio.TaskGroup, started: "list[asyncio.Task[None]]") -> None:
        """Begin to follow the cluster; `started` gets the tasks."""

        def begin(name: str, work: Callable[[], Awaitable[None]]) -> None:
            started.append(tasks.create_task(self._guard.keep(name, work)))

        for name, reflector in self._reflectors.items():
            begin(name, reflector.run)
        for name, reflector in self._reflectors.items():
            await reflector.wait_synced()
            self.health.set_ready(name, ready=True, detail=f"{len(reflector.items())} listed at start")
        # Other kinds and ScaledObjects exist only where somebody installed them, which may be later.
        kinds = Kinds(self._kube, self.world, self.settings.namespace, begin, retry_seconds=_OTHER_APIS_SECONDS)
        await kinds.follow_wanted()
        begin("kinds", kinds.run)
        if self.settings.keda:
            await self._list_scaled_objects()
            begin("scaledobjects", self._follow_keda)
        log.info("ready", objects=len(self.world.resources), targets=len(self.world.targets))

    async def _follow_keda(self) -> None:
        while True:
            await asyncio.sleep(_OTHER_APIS_SECONDS)
            await self._list_scaled_objects()

    async def _list_scaled_objects(self) -> None:
        path = scoped("/apis/keda.sh/v1alpha1", self.settings.namespace, "scaledobjects")
        try:
            listed = objects.OTHER_SCALERS.decode(await self._kube.request("GET", path))
        except NotFound:
            self.world.set_scaled_objects({})
        except (KubeError, msgspec.MsgspecError) as error:
            log.info("scaledobjects_not_listed", error=str(error))  # what was known stays
        else:
            found = {f"{o.metadata.namespace}/{o.metadata.name}": o.scaled for o in listed.items}
            self.world.set_scaled_objects(found)

    async def _ticks(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self._guard.run("tick", self.loop.tick())
            # Readiness is not lost by it: another one would read no better, and the Service would lose its metrics.
            self.health.set_ready("prometheus", ready=True, detail=self.loop.prometheus_away or "answers")
            due = max(due + self.settings.tick_seconds, loop.time())
            await asyncio.sleep(due - loop.time())


def _tune_collector() -> None:
    """Each tick makes and drops some hundred thousand small objects without cycles, beside caches that live for ever.

    The collector's usual thresholds walk through all of that dozens of times a tick: 40 % of its processor time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def _tune_allocator() -> None:
    """One heap for all threads, and large blocks back to the system as soon as they are free.

    By default glibc gives each thread a heap of its own, which keeps what Prometheus' largest answer ever took there: a
    quarter of the process. Other C libraries have no such call and no such heaps. To be called before threads start.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 256 * 1024)


async def serve(settings: AutoscalerSettings) -> None:
    """The whole of `headroom autoscaler`. Raises KubeConfigError and OSError when it cannot start."""
    _tune_allocator()
    kube = await connect(settings.kubeconfig or None)
    daemon = AutoscalerDaemon(kube, settings)
    try:
        async with serving(daemon.health.site(), settings.host, settings.port) as port:
            log.info("listening", host=settings.host, port=port)
            await daemon.run()
    finally:
        await daemon.close()
        await kube.close()


async def single_round(settings: AutoscalerSettings) -> Mapping[str, Outcome]:
    """`--once`: one round over all objects. Raises KubeConfigError."""
    kube = await connect(settings.kubeconfig or None)
    daemon = AutoscalerDaemon(kube, settings)
    try:
        return await daemon.once()
    finally:
        await daemon.close()
        await kube.close()

"""Puts the extender's parts together and keeps them running."""

import asyncio
import contextlib
import gc
import importlib
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from headroom import wire
from headroom.daemon.doors import Bridge, kept_for, two_doors
from headroom.daemon.guard import Guard
from headroom.daemon.http import Limits, Site
from headroom.daemon.logs import get_logger
from headroom.daemon.pages import Health, serving
from headroom.daemon.settings import SettingsError
from headroom.domain.dialects.records import records_by_scheduler
from headroom.errors import HeadroomError
from headroom.kube import calls
from headroom.kube.aio import connect
from headroom.kube.client import KubeClient
from headroom.kube.lease import wall_clock
from headroom.kube.reflector import Reflector
from headroom.prometheus.client import PrometheusSource
from scheduler.background.devices import DeviceWatch
from scheduler.background.events import Reporter
from scheduler.background.fencing import Fence
from scheduler.background.keeping import KeepingNodes
from scheduler.background.measuring import MeasuredPoll
from scheduler.background.nominating import NamingAhead
from scheduler.background.placeholders import Placeholders
from scheduler.background.planning import Planner
from scheduler.background.preemption import Preemptor
from scheduler.background.reading_groups import GroupReader
from scheduler.background.readying import Readier
from scheduler.background.waking import Waker
from scheduler.cluster.changes import CardClaimed, CardsOverfilled, Freed, PodDisagrees, PodRefused, PodWaits
from scheduler.cluster.customs import CustomsLearner
from scheduler.cluster.decisions import Decisions
from scheduler.cluster.effects import Effects
from scheduler.cluster.news.pods import identity_of
from scheduler.cluster.room.seating import Seating
from scheduler.cluster.state import ClusterState
from scheduler.cluster.view import StateView
from scheduler.leadership import FencedClient, Leadership
from scheduler.metrics import FleetCollector, SchedulerMetrics
from scheduler.placement.fragmentation import fragmentation
from scheduler.placement.policies.registry import policy_by_name
from scheduler.settings import SchedulerSettings, check
from scheduler.verbs.bind import Binder
from scheduler.verbs.cards import CardsPage
from scheduler.verbs.filter import Extender
from scheduler.verbs.fit import FitPage
from scheduler.verbs.pages import Pages
from scheduler.verbs.server import ExtenderServer, anyone, over_tls_only, this_machine, with_certificate
from scheduler.verbs.tls import ServerCertificate, uses_tls

log = get_logger(__name__)


FOR_KUBE_SCHEDULER: Final = Limits(connections=1024, idle_seconds=120.0, buffer_bytes=2**20)
"""It keeps connections for 90 s, one for each binding under way, and sends all names of a large cluster at once."""
FOR_STRANGERS: Final = Limits(answers_per_second=200.0)
"""Probes, a Prometheus, the autoscaler and people ask a few times a second."""
_PROBES_KEPT_SECONDS: Final = 0.25
_NAMESPACES_SECONDS: Final = 10.0


class SchedulerDaemon:
    """All parts over one API connection. `app` is what to serve; `run` follows the cluster until cancelled."""

    def __init__(
        self,
        kube: KubeClient,
        settings: SchedulerSettings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        check(settings)
        uses_tls(settings)
        self.settings, self._kube, self._monotonic, self._unix_clock = settings, kube, monotonic, unix_clock
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.metrics = SchedulerMetrics(registry)
        self._guard = Guard(lambda task: self.metrics.cycle_failures.labels(task).inc())
        self.state = ClusterState(
            policy_by_name(settings.policy), self.metrics,
            scheduler_names=settings.scheduler_names, idle_mib=settings.measured_idle_mib, customs=_customs(settings),
            resource_claims=settings.resource_claims, pin_claimable=settings.pin_claimable_cards,
            monotonic=monotonic, unix_clock=unix_clock,
        )  # fmt: skip
        self.seating = Seating(self.state, hold_seconds=settings.group_hold_seconds, monotonic=monotonic)
        view = StateView(self.state)
        registry.register(FleetCollector(view, lambda: fragmentation(view.fleet, view.profile)))
        self.health = Health(registry, metrics_in_thread=True, before_metrics=view.take)
        self.effects = Effects(self._guard)
        self._make_watches()
        self.leadership = Leadership(
            kube, settings,
            instance=f"{socket.gethostname()}_{settings.port}", process=secrets.token_hex(4),
            catch_up=self._catch_up, on_gained=self._gained, on_lost=self._lost, monotonic=monotonic,
        )  # fmt: skip
        self._fenced = FencedClient(kube, self._deciding)
        self.metrics.deciding.set_function(lambda: float(self.leadership.deciding))
        self.decisions = Decisions()
        self._make_background_parts()
        self.server = self._server()
        self._prometheus = PrometheusSource.of(settings) if settings.prometheus_url else None
        self.pages = Pages(
            self.state, self.decisions, FitPage(self.state, kube),
            CardsPage(self.state, self._prometheus, settings, unix_clock=unix_clock),
            self.health, self.leadership, monotonic=monotonic,
        ).pages()  # fmt: skip
        self.measured = self._measured_poll(self._prometheus) if self._prometheus is not None else None
        for name in ("nodes", "pods", "namespaces"):
            self.health.set_ready(name, ready=False, detail="not listed yet")
        if self.measured is not None:
            self.health.set_ready("measured", ready=False, detail="not read yet")

    def _make_watches(self) -> None:
        """What is followed of the cluster."""
        kube, guard, monotonic = self._kube, self._guard, self._monotonic
        # What a page brings stays, as at the start: the collector would look at ever more of it while a list goes on.
        keep = gc.freeze
        self.nodes = Reflector(
            kube, calls.NODES, wire.NODE, self._on_node, on_page=keep, guard=guard, monotonic=monotonic)  # fmt: skip
        self.namespaces = Reflector(
            kube, calls.NAMESPACES, wire.NAMESPACE, self._on_namespace,
            on_synced=self._on_namespaces_listed, guard=guard, monotonic=monotonic,
        )  # fmt: skip
        self.pods = Reflector(
            kube, calls.PODS, wire.POD, self._on_pod,
            on_missed=lambda key, pod: self.effects(self.state.news.missed(key, pod)),
            remember=identity_of, on_page=keep, on_synced=self._on_pods_listed, guard=guard, monotonic=monotonic,
        )  # fmt: skip
        self.devices = DeviceWatch(kube, self.state, self.effects, guard, monotonic=monotonic)
        ages = self.metrics.watch_age
        ages.labels("nodes").set_function(lambda: self.nodes.seconds_since_contact)
        ages.labels("pods").set_function(lambda: self.pods.seconds_since_contact)
        if self.settings.resource_claims:
            ages.labels("resourceclaims").set_function(lambda: self.devices.seconds_since_contact)

    def _measured_poll(self, source: PrometheusSource) -> MeasuredPoll:
        return MeasuredPoll(
            self.state, source, self.settings, self.metrics, self.effects,
            on_ready=lambda detail: self.health.set_ready("measured", ready=True, detail=detail),
            unix_clock=self._unix_clock,
        )  # fmt: skip

    def _make_background_parts(self) -> None:
        """What acts without being asked, and which changes it hears of."""
        state, settings, metrics, monotonic = self.state, self.settings, self.metrics, self._monotonic
        effects, kube = self.effects, self._fenced
        self.readier = Readier(state, self._guard)
        effects.on(PodWaits, "ready", lambda change: self.readier.pod_waits(change.entry))
        self.planner = Planner(state.placer, every_seconds=settings.plan_every_seconds, monotonic=monotonic)
        self.preemptor = Preemptor(state, kube, settings, metrics, effects, monotonic=monotonic)
        self.keeping = KeepingNodes(state, self.seating, wait_seconds=settings.fair_wait_seconds)
        delay = settings.wake_delay_seconds
        self.waker = Waker(state, kube, metrics, self.seating, delay_seconds=delay, wall_clock=wall_clock)
        self.naming = NamingAhead(state, kube, settings, metrics, effects, may_write=self._may_act, monotonic=monotonic)
        self.fence = Fence(state, self._kube, settings, effects, term=lambda: self.leadership.term, monotonic=monotonic)
        self.reporter = Reporter(
            state, kube, settings, self.decisions,
            instance=socket.gethostname(), monotonic=monotonic, wall_clock=wall_clock,
        )  # fmt: skip
        self.placeholders = Placeholders(
            state, kube, settings, metrics,
            instance=socket.gethostname(), may_act=self._may_act, monotonic=monotonic, wall_clock=wall_clock,
        )  # fmt: skip
        self.group_reader = GroupReader(self._kube, state, effects, monotonic=monotonic)
        self.seating.listen(effects)  # before all others: first it is settled what a group has
        self.preemptor.listen()  # before the waker: what came free for a pod is reserved for it first
        effects.on(Freed, "wake", self.waker.freed)
        effects.on(PodRefused, "events", lambda change: self.reporter.refused(change.entry))
        effects.on(PodDisagrees, "events", self._tell_of_bound)
        effects.on(CardClaimed, "events", self._tell_of_bound)
        effects.on(CardsOverfilled, "events", self._tell_of_bound)
        effects.on(PodWaits, "events", lambda change: self.reporter.waits(change.entry))
        if settings.naming_ahead:
            effects.on(PodWaits, "name_ahead", lambda _: self.naming.pods_changed())

    def _server(self) -> ExtenderServer:
        state, settings, monotonic = self.state, self.settings, self._monotonic
        extender = Extender(state, settings, self.decisions, self.effects, self.seating, monotonic=monotonic)
        binder = Binder(
            state, self._fenced, settings, self.decisions, self.effects, self.seating,
            term=lambda: self.leadership.term, monotonic=monotonic,
        )  # fmt: skip
        return ExtenderServer(
            state, extender, binder, settings, self.metrics, self.health, self.leadership,
            head_start=self._head_start, answered=self.readier.answered, monotonic=monotonic,
        )  # fmt: skip

    async def _head_start(self, uid: str) -> None:
        await self.group_reader.known(uid)
        await self.naming.head_start(uid)

    @property
    def app(self) -> Site:
        """Everything, without TLS."""
        check = anyone if self.settings.allow_remote else this_machine
        return self.health.site(self.pages, self.server.handlers(check), FOR_KUBE_SCHEDULER)

    def pages_alone(self, bridge: Bridge | None = None) -> Site:
        """The pages, for callers who may not call the verbs; with a bridge, for another thread."""
        check = over_tls_only(self.settings.tls_port) if uses_tls(self.settings) else this_machine
        refused = self.server.handlers(check)
        if bridge is None:
            return self.health.site(self.pages, refused)
        pages = {route: bridge.page(page) for route, page in (self.health.pages() | self.pages).items()}
        for path in ("/healthz", "/readyz"):
            pages["GET", path] = kept_for(_PROBES_KEPT_SECONDS, pages["GET", path])
        return Site(pages, refused, FOR_STRANGERS)

    def verbs_over_tls(self) -> Site:
        """The verbs, for callers with a certificate."""
        check = with_certificate(self.settings.tls_client_names)
        return Site({}, self.server.handlers(check), FOR_KUBE_SCHEDULER)

    def _on_node(self, kind: str, name: str, node: wire.Node) -> None:
        self.effects(self.state.on_node(kind, name, node))

    def _on_namespace(self, kind: str, name: str, namespace: wire.Namespace) -> None:
        self.effects(self.state.on_namespace(kind, name, namespace))

    def _on_namespaces_listed(self, _: float) -> None:
        self.health.set_ready("namespaces", ready=True, detail="listed")

    async def _wait_for_namespaces(self) -> None:
        """Know the quotas before deciding; who lacks the right to see namespaces (an old ClusterRole) is not stopped by that."""
        while not self.namespaces.has_synced:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_NAMESPACES_SECONDS):
                    await self.namespaces.wait_synced()
            if self.namespaces.forbidden:
                log.warning("namespaces_forbidden")
                detail = "the right to list namespaces is missing: quotas are not kept"
                self.health.set_ready("namespaces", ready=True, detail=detail)
                return

    def _on_pod(self, kind: str, key: str, pod: wire.Pod) -> None:
        self.effects(self.state.on_pod(kind, key, pod))

    def _on_pods_listed(self, began: float) -> None:
        self.effects(self.state.news.listed(began, self.pods.untaken))

    def _is_heard(self, reflector: Reflector[Any]) -> tuple[bool, str]:
        age = reflector.seconds_since_contact
        if reflector.behind:
            return False, "an event was not taken in; a list is under way"
        return age < self.settings.watch_silence_seconds, f"heard {age:.0f} s ago"

    def _deciding(self) -> bool:
        return self.leadership.deciding

    def _may_act(self) -> bool:
        """Whether to begin something that nobody asked for."""
        return self.leadership.deciding and self.health.ready

    async def _catch_up(self) -> None:
        """Know what was bound before, and see to it that nothing more is bound by what was decided before."""
        await self.pods.relist()
        await self.fence.raise_before_deciding()

    def _gained(self) -> None:
        self.health.set_ready("lease", ready=True, detail=self.leadership.words)
        self.naming.pods_changed()  # pods may have queued up while nobody decided
        for change in self.state.disagreements():
            self.reporter.of_bound(change)  # nobody told of those that were found before

    def _tell_of_bound(self, change: PodDisagrees | CardClaimed | CardsOverfilled) -> None:
        if self._deciding():
            self.reporter.of_bound(change)

    def _lost(self) -> None:
        # Ready all the same: it knows the cluster, and a Deployment would wait for ever for a second one to decide, too.
        self.health.set_ready("lease", ready=True, detail=self.leadership.words)
        self.preemptor.abandon()
        self.effects(self.state.pods.drop_promises())

    async def run(self) -> None:
        """Rebuild from the API, turn ready, and follow the cluster until cancelled."""
        # What is read at the start stays, and the collector would look at ever more of it again and again.
        gc.disable()
        try:
            await self._run()
        finally:
            gc.enable()
            if self._prometheus is not None:
                await self._prometheus.close()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            # The election before the pods: their first list then serves who has won it already.
            tasks.create_task(self._guard.keep("lease", self.leadership.run))
            # What describes nodes before nodes, and claims before the pods that have them.
            if self.settings.resource_claims:
                await self.devices.describe_nodes(tasks)
            # Nodes before pods: those are resolved to cards as they come, once.
            tasks.create_task(self._guard.keep("nodes", self.nodes.run))
            await self.nodes.wait_synced()
            self.health.set_ready("nodes", ready=True, detail=f"{len(self.state.nodes)} listed at start")
            if self.settings.resource_claims:
                await self.devices.follow_claims(tasks)
            tasks.create_task(self._guard.keep("pods", self.pods.run))
            tasks.create_task(self._guard.keep("namespaces", self.namespaces.run))
            await self.pods.wait_synced()
            await self._wait_for_namespaces()
            if not self.settings.lease_namespace:
                await self.fence.raise_before_deciding()  # what a process before this one was binding
            self.health.set_ready("pods", ready=True, detail=f"{len(self.pods.items())} listed at start")
            for kind, reflector in (("nodes", self.nodes), ("pods", self.pods)):
                self.health.add_check(f"{kind} watch", partial(self._is_heard, reflector))
            if self.measured is not None:
                tasks.create_task(self._guard.keep("measure", self.measured.run))
                await self.measured.first_reading()
            gc.freeze()
            gc.enable()
            log.info("ready", nodes=len(self.state.nodes), cards=int((self.state.fleet.usable_mib > 0).sum()))
            tasks.create_task(self._guard.keep("sweep", self._sweep))
            tasks.create_task(self._guard.keep("settle", self.fence.run))
            tasks.create_task(self._guard.keep("wake", self.waker.run))
            tasks.create_task(self._guard.keep("preempt", self.preemptor.run))
            tasks.create_task(self._guard.keep("name_ahead", self.naming.run))
            tasks.create_task(self._guard.keep("events", self.reporter.run))
            if self.settings.placeholder_namespace:
                tasks.create_task(self._guard.keep("placeholders", self.placeholders.run))
            tasks.create_task(self._guard.keep("groups", self.group_reader.run))
            if not self.settings.plan_every_pods:
                tasks.create_task(self._guard.keep("plan", self.planner.run))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.settings.sweep_seconds)
            now = self._monotonic()
            self.preemptor.sweep(now)
            self.effects(self.state.pods.sweep(now))
            self.effects(self.seating.rested(now))
            if self._may_act():
                self.effects(self.keeping.sweep(now))


def _customs(settings: SchedulerSettings) -> CustomsLearner:
    """What is known of the cluster's customs at the start. Raises SettingsError."""
    try:
        return CustomsLearner(settings.gpushare_unit, records_by_scheduler(settings.foreign_records))
    except ValueError as error:
        raise SettingsError([f"foreign_records: {error}"]) from error


def settle_interpreter() -> None:
    """Keep the interpreter's own pauses short; once, before a daemon is made.

    Pages, metrics and plans are made in threads: a filter call must not wait 5 ms for each of their turns. And what was loaded
    stays: out of the collector's sight it costs no pauses.
    """
    sys.setswitchinterval(0.0005)
    importlib.import_module("numpy.ma")  # numpy.unique loads it when first called, which takes 50 ms
    gc.collect()
    gc.freeze()


async def serve(settings: SchedulerSettings) -> None:
    """The whole of `headroom scheduler`. Raises HeadroomError when it cannot start."""
    check(settings)
    settle_interpreter()
    kube = await connect(settings.kubeconfig or None)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(kube.close)
        daemon = SchedulerDaemon(kube, settings)
        stack.push_async_callback(daemon.leadership.release)  # once the calls under way have been answered
        await stack.enter_async_context(listening(daemon))
        await daemon.run()


@contextlib.asynccontextmanager
async def listening(daemon: SchedulerDaemon) -> AsyncIterator[tuple[int, int | None]]:
    """Answer on the daemon's ports while the block runs: that of the pages, and that of the verbs where those go over TLS.

    Raises HeadroomError where a port is taken or the TLS files are no good.
    """
    settings = daemon.settings
    tls, tls_port = ServerCertificate(settings) if uses_tls(settings) else None, None
    async with contextlib.AsyncExitStack() as stack:
        if tls is not None:
            host = settings.host if settings.allow_remote else "127.0.0.1"
            over_tls = serving(daemon.verbs_over_tls(), host, settings.tls_port, tls=tls.context)
            tls_port = await _listen(stack, over_tls, host, settings.tls_port, "TLS")
            task = asyncio.create_task(tls.run())
            stack.callback(task.cancel)
        if settings.allow_remote and tls is None:
            plain = serving(daemon.app, settings.host, settings.port)
        else:
            plain = two_doors(None if tls else daemon.app, daemon.pages_alone, settings.host, settings.port)
        yield await _listen(stack, plain, settings.host, settings.port, "HTTP"), tls_port


async def _listen(
    stack: contextlib.AsyncExitStack,
    server: contextlib.AbstractAsyncContextManager[int],
    host: str,
    port: int,
    protocol: str,
) -> int:
    try:
        taken = await stack.enter_async_context(server)
    except OSError as error:
        raise HeadroomError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    log.info("listening", host=host, port=taken, protocol=protocol)
    return taken

"""The agent as a daemon: pages, lock, watches and the cycle, put together."""

import asyncio
import contextlib
import fcntl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, Final, TypeAlias

import msgspec
from prometheus_client import CollectorRegistry

from agent.cards.opening import open_reader
from agent.cards.reader import Reading
from agent.cycle import Agent, Cluster, OutOfReachError, follow
from agent.energy.books import Account
from agent.energy.tariff import load_tariff
from agent.metrics import AgentMetrics
from agent.pods.podresources import PodResources
from agent.pods.processes import ProcessTable
from agent.settings import AgentSettings
from headroom.daemon import logs
from headroom.daemon.http import Question, Reply, fault
from headroom.daemon.pages import Health, serving
from headroom.errors import HeadroomError
from headroom.kube import aio
from headroom.kube.client import KubeClient

_LOCK_RETRY_SECONDS: Final = 2.0


Connect: TypeAlias = Callable[[], Awaitable[KubeClient]]


class AgentError(HeadroomError):
    """The agent cannot start; the text says why."""


async def serve(settings: AgentSettings, connect: Connect | None = None) -> None:
    """The daemon: pages first, then the lock, then the cycle. `connect` opens the API connection, by default as the settings say."""
    if settings.publish_capacity:
        logs.get_logger(__name__).warning("publish_capacity_without_effect", gone_in="the next release")
    tariff = load_tariff(settings.tariff)
    registry = CollectorRegistry()
    health = Health(registry)
    account = Account(
        longest_gap_seconds=max(3 * settings.interval_seconds, 30.0),
        keep_finished_seconds=settings.keep_finished_seconds,
        idle_watts=tariff.idle_watts,
    )
    metrics = AgentMetrics(registry, node=settings.node, account=account, tariff=tariff)

    async def last_reading(_: Question) -> Reply:
        return _shown(metrics.snapshot.reading)

    async with serving(health.site({("GET", "/debug/reading"): last_reading}), settings.host, settings.port):
        with _Lock(settings.lock_file) as lock:
            await _until_alone(lock, health, metrics)
            await _work(
                settings, health, metrics, account, connect or (lambda: aio.connect(settings.kubeconfig or None))
            )


def _shown(reading: Reading | None) -> Reply:
    """A reading as `--once --json` prints it, on one line: a script, for reports of what went wrong."""
    if reading is None:
        return fault(503, "the cards cannot be read")
    return Reply(msgspec.json.encode(reading) + b"\n")


async def _work(
    settings: AgentSettings, health: Health, metrics: AgentMetrics, account: Account, connect: Connect
) -> None:
    reader = open_reader(settings.script)
    podresources = _podresources(settings)
    kube = await connect()
    try:
        agent = Agent(
            settings,
            reader,
            account=account,
            metrics=metrics,
            health=health,
            podresources=podresources,
            processes=ProcessTable(Path(settings.proc)),
        )
        cluster = follow(kube, settings, metrics, agent.pod_event)
        agent.attach(cluster)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(cluster.node.run())
            tasks.create_task(cluster.pods.run())
            tasks.create_task(cluster.slices.run())
            tasks.create_task(_until_synced(cluster, health))
            tasks.create_task(agent.tell_at_once())
            tasks.create_task(_begin(agent, cluster, settings.interval_seconds))
    except* OutOfReachError as lost:
        # The process ends, and kubelet starts a container that has the devices again.
        raise lost.exceptions[0] from None
    finally:
        if podresources is not None:
            await podresources.close()
        await kube.close()
        reader.close()


def _podresources(settings: AgentSettings) -> PodResources | None:
    if settings.podresources_socket in ("", "off"):
        return None
    return PodResources(settings.podresources_socket, timeout_seconds=settings.podresources_timeout_seconds)


async def _begin(agent: Agent, cluster: Cluster, patience_seconds: float) -> None:
    """The cycle, from when pods and node are known, or soon after if the API server takes its time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_seconds):
            await cluster.node.wait_synced()
            await cluster.pods.wait_synced()
    await agent.run()


async def _until_synced(cluster: Cluster, health: Health) -> None:
    health.set_ready("api", False, "pods and node not listed yet")
    await cluster.node.wait_synced()
    await cluster.pods.wait_synced()
    health.set_ready("api", True)


class _Lock:
    """An advisory lock on a file of the node: two agents would publish and count everything twice."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> "_Lock":
        if self._path:
            try:
                self._file = open(self._path, "a", encoding="utf-8")
            except OSError as error:
                raise AgentError(f"--lock-file: {self._path}: cannot be opened: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def taken(self) -> bool:
        """Try to take it."""
        if self._file is None:
            return True
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False


async def _until_alone(lock: _Lock, health: Health, metrics: AgentMetrics) -> None:
    metrics.standby.set(0)
    if not lock.taken():
        logs.get_logger(__name__).warning("another_agent_on_this_node")
        metrics.standby.set(1)
        health.set_ready("lock", False, "another agent on this node is at work")
        while not lock.taken():
            await asyncio.sleep(_LOCK_RETRY_SECONDS)
        metrics.standby.set(0)
    health.set_ready("lock", True)

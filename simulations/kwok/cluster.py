"""A real Kubernetes control plane on this machine, with simulated nodes: etcd, kube-apiserver, kube-controller-manager,
kube-scheduler and kwok as child processes on free ports of 127.0.0.1, RBAC on.

    from simulations.kwok.cluster import Cluster, scheduler_config
    from simulations.kwok.nodes import uniform_nodes

    port = free_port()  # from simulations.kwok.process
    config = scheduler_config(extender_url=f"http://127.0.0.1:{port}", scheduler_names=("headroom",),
                              managed_resources=("headroom.dev/vram",))
    with Cluster.start(nodes=uniform_nodes(20), scheduler_config=config) as cluster:
        daemon = cluster.daemon("scheduler", "--port", str(port), ready_url=f"http://127.0.0.1:{port}/readyz")
        cluster.apply(manifest_text)                      # text, path, or a list of objects
        cluster.wait_for(lambda: all(pod["spec"].get("nodeName") for pod in cluster.pods()), "every pod to be bound")
        cluster.component("kube-apiserver").kill()        # .restart(), .stop(), .signal(), .tail(), .pid, .log
        kube = await cluster.client()                     # headroom.kube client; cluster.api is a blocking one
        print(cluster.kubectl("get", "pods", "-A"))

`python -m simulations.kwok.build` must have been run once. A cluster is up in about five seconds; several may run at once.
All files, logs included, are in `cluster.folder`, a temporary one unless `keep` names another. When this program ends, in
whichever way, its processes end too (see `reaper.py`).
"""

import contextlib
import json
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from headroom.domain.model import GpuNode
from headroom.errors import HeadroomError
from headroom.kube.aio import AioKubeClient, connect
from simulations.kwok import control_plane
from simulations.kwok.api import Api, ApiError
from simulations.kwok.build import find_binaries
from simulations.kwok.control_plane import HOST, scheduler_config
from simulations.kwok.nodes import Description, node_manifest
from simulations.kwok.process import Component, ComponentError, Reaper, free_port
from simulations.kwok.prometheus import PrometheusServer

__all__ = ["Cluster", "ClusterError", "scheduler_config"]

_READY_SECONDS: Final = 90.0
_POLL_SECONDS: Final = 0.1


class ClusterError(HeadroomError):
    """The cluster could not be set up, or a wait ran out of time; the text says what was waited for."""


class Cluster:
    """One running control plane. Make it with `Cluster.start`; use it as a context manager or call `stop`."""

    def __init__(self, folder: Path, binaries: Path, *, audit: bool, keep: bool) -> None:
        """Allocate ports and write credentials; starts nothing but the guard of its processes."""
        self.folder, self._binaries = folder, binaries
        self._reaper = Reaper(folder if not keep else folder / "nothing-to-remove")
        self._components: dict[str, Component] = {}
        self._api_port, self._etcd_port = free_port(), free_port()
        self._audit = audit
        self._files = control_plane.prepare(folder, self._api_port)
        self.api = Api(HOST, self._api_port, self._files.tokens[control_plane.ADMIN], self._files.certificate)
        self.prometheus: PrometheusServer | None = None

    @classmethod
    def start(
        cls,
        *,
        nodes: Iterable[GpuNode] = (),
        description: Description = Description.ANNOTATION,
        scheduler_config: Mapping[str, Any] | str | None = None,
        prometheus: bool = False,
        audit: bool = False,
        keep: Path | None = None,
        without: Sequence[str] = (),
    ) -> Self:
        """Start everything and wait until it serves and the nodes are Ready.

        `scheduler_config` is a KubeSchedulerConfiguration as a mapping (see the function of that name) or YAML text, the
        kubeconfig is added; None is kube-scheduler as it comes. `prometheus` adds a Prometheus without targets; `audit`
        records every call in `audit_events`. `without` leaves components out by name, e.g. `kube-scheduler`.
        Raises BuildError, ComponentError, ClusterError; then nothing is left behind.
        """
        binaries = find_binaries()
        if keep is not None:
            keep.mkdir(parents=True)
        folder = keep or Path(tempfile.mkdtemp(prefix="headroom-cluster-"))
        cluster = cls(folder, binaries, audit=audit, keep=keep is not None)
        try:
            cluster._start_control_plane(scheduler_config, without)
            if prometheus:
                cluster.start_prometheus()
            cluster.create_nodes(nodes, description)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process that this cluster started and remove its folder (unless kept)."""
        for component in reversed(self._components.values()):
            component.kill()
        self._components.clear()
        self._reaper.close()

    # --- components -------------------------------------------------------------------------------------------------

    def _start_control_plane(self, config: Mapping[str, Any] | str | None, without: Sequence[str]) -> None:
        binaries, files = self._binaries, self._files
        etcd = control_plane.etcd_command(binaries, files, self._etcd_port)
        self.run("etcd", etcd, ready_url=f"http://{HOST}:{self._etcd_port}/health")
        self.run(
            "kube-apiserver",
            control_plane.api_server_command(binaries, files, self._api_port, self._etcd_port, audit=self._audit),
            ready=self._api_is_ready,
        )
        waiting = []
        if "kube-controller-manager" not in without:
            port = free_port()
            command = control_plane.controller_manager_command(binaries, files, port)
            waiting.append(self.launch("kube-controller-manager", command, ready_url=f"https://{HOST}:{port}/healthz"))
        if "kube-scheduler" not in without:
            waiting.append(self._launch_scheduler("kube-scheduler", config or control_plane.scheduler_config()))
        if "kwok" not in without:
            port = free_port()
            command = control_plane.kwok_command(binaries, files, port)
            waiting.append(self.launch("kwok", command, ready_url=f"http://{HOST}:{port}/healthz"))
        for component in waiting:
            component.wait_ready(_READY_SECONDS)
        if "kube-controller-manager" not in without:
            # Pods are refused before their namespace has its service account.
            self.wait_for(
                lambda: self.exists("/api/v1/namespaces/default/serviceaccounts/default"), "the default service account"
            )

    def add_scheduler(self, name: str, config: Mapping[str, Any] | str, *, kubeconfig: Path | None = None) -> Component:
        """Start another kube-scheduler, which must use other scheduler names; with the rights of `kubeconfig` if given."""
        component = self._launch_scheduler(name, config, kubeconfig)
        component.wait_ready(_READY_SECONDS)
        return component

    def _launch_scheduler(
        self, name: str, config: Mapping[str, Any] | str, kubeconfig: Path | None = None
    ) -> Component:
        content: dict[str, Any] = dict(yaml.safe_load(config) if isinstance(config, str) else config)
        identity = kubeconfig or self._files.kubeconfig(control_plane.SCHEDULER)
        content["clientConnection"] = {**content.get("clientConnection", {}), "kubeconfig": str(identity)}
        path, port = self.folder / f"{name}.yaml", free_port()
        path.write_text(yaml.safe_dump(content))
        command = control_plane.scheduler_command(self._binaries, self._files, port, path, identity)
        return self.launch(name, command, ready_url=f"https://{HOST}:{port}/healthz")

    def start_prometheus(self, scrape_interval: str = "1s") -> PrometheusServer:
        """Start Prometheus; give it targets with `cluster.prometheus.scrape(job, "127.0.0.1:port", ...)`."""
        self.prometheus = PrometheusServer(self.folder / "prometheus", free_port(), scrape_interval)
        self.run("prometheus", self.prometheus.command(), ready_url=f"{self.prometheus.url}/-/ready")
        return self.prometheus

    def daemon(
        self,
        subcommand: str,
        *arguments: str,
        name: str | None = None,
        ready_url: str | None = None,
        kubeconfig: Path | None = None,
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = 30.0,
    ) -> Component:
        """Run `headroom SUBCOMMAND ARGUMENTS...` against this cluster (KUBECONFIG is set) and wait for `ready_url` to answer 200."""
        settings = {"KUBECONFIG": str(kubeconfig or self.kubeconfig), **(environment or {})}
        command = [sys.executable, "-m", "headroom", subcommand, *arguments]
        return self.run(
            name or subcommand, command, ready_url=ready_url, environment=settings, timeout_seconds=timeout_seconds
        )

    def run(
        self,
        name: str,
        command: Sequence[str],
        *,
        ready_url: str | None = None,
        ready: Callable[[], bool] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = _READY_SECONDS,
    ) -> Component:
        """Run any program as a component of this cluster and wait until it is ready. Raises ComponentError."""
        component = self.launch(name, command, ready_url=ready_url, ready=ready, environment=environment)
        component.wait_ready(timeout_seconds)
        return component

    def launch(
        self,
        name: str,
        command: Sequence[str],
        *,
        ready_url: str | None = None,
        ready: Callable[[], bool] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Component:
        """`run` without the wait; a stopped component of the same name is replaced."""
        if name in self._components and self._components[name].running:
            raise ComponentError(f"a component {name} runs already")
        if ready_url is not None:
            ready = lambda: _answers(ready_url)  # noqa: E731 - a default for the parameter
        component = Component(
            name, command, log=self.folder / f"{name}.log", reaper=self._reaper, ready=ready, environment=environment
        )
        self._components[name] = component
        component.launch()
        return component

    def component(self, name: str) -> Component:
        """`etcd`, `kube-apiserver`, `kube-controller-manager`, `kube-scheduler`, `kwok`, `prometheus`, or a name given to
        `run`, `daemon` or `add_scheduler`."""
        try:
            return self._components[name]
        except KeyError:
            raise ClusterError(f"no component {name!r}; there are {', '.join(self._components)}") from None

    def _api_is_ready(self) -> bool:
        if not self._files.certificate.exists():
            return False
        try:
            self.api.get("/readyz")
        except (ApiError, ssl.SSLError):
            return False
        return True

    # --- access -----------------------------------------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of the cluster's administrator."""
        return self._files.kubeconfig(control_plane.ADMIN)

    async def client(self, kubeconfig: Path | None = None) -> AioKubeClient:
        """A client as the daemons use it; the caller closes it."""
        return await connect(str(kubeconfig or self.kubeconfig))

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig that has exactly the rights of a service account, with a token made by the API server."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        answer = self.api.request("POST", path, {"spec": {"expirationSeconds": 86400}})
        kubeconfig = self.folder / f"{namespace}-{name}.kubeconfig"
        control_plane.write_kubeconfig(kubeconfig, self._api_port, self._files.certificate, answer["status"]["token"])
        return kubeconfig

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_seconds: float = 60.0) -> str:
        """Run kubectl as administrator; its standard output. Raises ClusterError with its standard error."""
        command = [str(self._binaries / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
        if done.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, manifest: str | Path | Sequence[Mapping[str, Any]], namespace: str | None = None) -> str:
        """Server-side apply of YAML text, a file, a kustomization folder or a list of objects. Raises ClusterError."""
        options = ["--server-side", "--force-conflicts", *(["-n", namespace] if namespace else [])]
        if isinstance(manifest, Path):
            return self.kubectl("apply", *options, "-k" if manifest.is_dir() else "-f", str(manifest))
        text = manifest if isinstance(manifest, str) else yaml.safe_dump_all([dict(item) for item in manifest])
        return self.kubectl("apply", *options, "-f", "-", stdin=text)

    def install_crd(self, manifest: Path) -> None:
        """Apply a CustomResourceDefinition and wait until the API server serves it."""
        self.apply(manifest)
        name = yaml.safe_load(manifest.read_text())["metadata"]["name"]
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"

        def established() -> bool:
            conditions = self.api.get(path).get("status", {}).get("conditions") or ()
            return any(item["type"] == "Established" and item["status"] == "True" for item in conditions)

        self.wait_for(established, f"{name} to be served")

    def exists(self, path: str) -> bool:
        """Whether the API has an object at this path."""
        try:
            self.api.get(path)
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        return True

    def pods(self, namespace: str | None = None, **query: str) -> list[dict[str, Any]]:
        """Pods of a namespace or of all; query parameters (labelSelector, fieldSelector) by keyword."""
        path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        return self.api.items(path, **query)

    def refusal(self, namespace: str, pod: str) -> str:
        """Why kube-scheduler could not place a pod: the message of PodScheduled=False, empty when there is none (yet)."""
        found = self.api.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")["status"].get("conditions", [])
        return next((item.get("message", "") for item in found if item["type"] == "PodScheduled"), "")

    def audit_events(self) -> list[dict[str, Any]]:
        """Every call that the API server has answered so far; needs `audit=True`."""
        with self._files.audit_log.open() as log:
            return [json.loads(line) for line in log if line.endswith("\n")]

    def wait_for(self, condition: Callable[[], object], what: str, timeout_seconds: float = 90.0) -> None:
        """Ask every 100 ms until `condition` is true. Raises ClusterError naming `what`; an unreachable API is waited out."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            with contextlib.suppress(OSError):
                if condition():
                    return
            if time.monotonic() > deadline:
                raise ClusterError(f"waited {timeout_seconds:.0f} s in vain for {what}")
            time.sleep(_POLL_SECONDS)

    # --- nodes ------------------------------------------------------------------------------------------------------

    def create_nodes(self, nodes: Iterable[GpuNode], description: Description = Description.ANNOTATION) -> None:
        """Create nodes and wait until they are Ready and schedulable. Raises ApiError, ClusterError."""
        self.create_node_objects([node_manifest(node, description) for node in nodes])

    def create_node_objects(self, objects: Sequence[dict[str, Any]]) -> None:
        """The same for ready-made Node objects. About 1,000 a second."""
        wanted = {node["metadata"]["name"] for node in objects}
        self.api.create_all(("/api/v1/nodes", node) for node in objects)

        def settled() -> bool:
            ready = {node["metadata"]["name"] for node in self.api.items("/api/v1/nodes") if _is_ready(node)}
            return wanted <= ready

        if wanted:
            self.wait_for(settled, f"{len(wanted)} nodes to be Ready", timeout_seconds=60 + len(wanted) / 20)

    def delete_nodes(self, names: Iterable[str]) -> None:
        """Delete nodes by name; those already gone are fine."""
        self.api.delete_all(f"/api/v1/nodes/{name}" for name in names)


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _answers(url: str) -> bool:
    """Whether a GET is answered with 200; the certificates of loopback health pages are not checked."""
    context = ssl._create_unverified_context() if url.startswith("https") else None
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False

"""What every cluster of this machine offers, whatever its nodes are: its components, and access to its API."""

import contextlib
import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from headroom.errors import HeadroomError
from headroom.kube.aio import AioKubeClient, connect
from simulations.kwok import control_plane
from simulations.kwok.api import Api, ApiError
from simulations.kwok.process import Component, ComponentError, Reaper, free_port
from simulations.kwok.prometheus import PrometheusServer

READY_SECONDS: Final = 90.0
_POLL_SECONDS: Final = 0.1


class ClusterError(HeadroomError):
    """The cluster could not be set up, or a wait ran out of time; the text says what was waited for."""


class RunningCluster:
    """Components, and access to the API server, of one cluster. `simulations.kwok` and `simulations.node` start them."""

    def __init__(self, folder: Path, binaries: Path, reaper: Reaper, files: control_plane.Files, api: Api) -> None:
        """All files are in `folder`; `reaper` guards the processes; `api` is the owner's access."""
        self.folder, self._binaries, self._reaper, self._files, self.api = folder, binaries, reaper, files, api
        self._components: dict[str, Component] = {}
        self.prometheus: PrometheusServer | None = None

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

    def add_scheduler(self, name: str, config: Mapping[str, Any] | str, *, kubeconfig: Path | None = None) -> Component:
        """Start another kube-scheduler, which must use other scheduler names; with the rights of `kubeconfig` if given."""
        component = self._launch_scheduler(name, config, kubeconfig)
        component.wait_ready(READY_SECONDS)
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
        return self.launch(name, command, ready_url=f"https://{control_plane.HOST}:{port}/healthz")

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
        timeout_seconds: float = READY_SECONDS,
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
            ready = lambda: self.answers(ready_url)  # noqa: E731 - a default for the parameter
        component = self._component(name, command, ready, environment)
        self._components[name] = component
        component.launch()
        return component

    def _component(
        self,
        name: str,
        command: Sequence[str],
        ready: Callable[[], bool] | None,
        environment: Mapping[str, str] | None,
    ) -> Component:
        """A component that has not been started. Overridden where components live in namespaces of their own."""
        log = self.folder / f"{name}.log"
        return Component(name, command, log=log, reaper=self._reaper, ready=ready, environment=environment)

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

    def prefix(self) -> list[str]:
        """What comes before a command that talks to the cluster. Overridden as `network` is."""
        return []

    def network(self) -> AbstractContextManager[None]:
        """Entered to open a connection to the cluster. Overridden where it has a network of its own."""
        return nullcontext()

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
        control_plane.write_kubeconfig(kubeconfig, self._files, answer["status"]["token"])
        return kubeconfig

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_seconds: float = 60.0) -> str:
        """Run kubectl as administrator; its standard output. Raises ClusterError with its standard error."""
        command = [*self.prefix(), str(self._binaries / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments]
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

    def answers(self, url: str) -> bool:
        """Whether a GET is answered with 200; the certificates of health pages are not checked."""
        context = ssl._create_unverified_context() if url.startswith("https") else None
        try:
            with self.network(), urllib.request.urlopen(url, timeout=2, context=context) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            return False

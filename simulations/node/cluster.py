"""A real Kubernetes node on this machine, under a real control plane: kubelet, containerd, runc, kube-proxy and DNS in
namespaces of their own. What is not real: the cards (a stub of NVML, mounted into containers by a stand-in for NVIDIA's
runtime), NVIDIA's device plugin (`plugin/` speaks to kubelet as it does), and a way out of the node's network.

    with NodeCluster.start() as cluster:
        cluster.start_plugin(replicas=4, policy="distributed")
        cluster.apply([pod])                              # pods really run: image BUSYBOX
        cluster.component("kubelet").restart()
        print(cluster.held_devices())

Needs Linux, root, the packages of tools/install-prerequisites.sh, and the builds of `make control-plane` and
`make node-programs`. Up in about 10 seconds. See docs/testing.md.
"""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from agent.pods.podresources import PodResources
from agent.pods.reconcile import Device
from simulations.kwok import control_plane
from simulations.kwok.api import Api
from simulations.kwok.build import CONTROL_PLANE, find_binaries
from simulations.kwok.process import Component, Reaper, free_port
from simulations.kwok.prometheus import PrometheusServer
from simulations.kwok.running import READY_SECONDS, RunningCluster
from simulations.node import cgroups, programs
from simulations.node.build import NODE
from simulations.node.cards import StubCards
from simulations.node.images.basic import write_basic_images
from simulations.node.inside.runtime import write_wrapper
from simulations.node.namespaces import NODE_IP, InsideComponent, Namespaces
from simulations.node.objects import PROMETHEUS_PORT, cluster_objects
from simulations.node.programs import NODE_NAME

__all__ = ["NODE_IP", "NODE_NAME", "NodeCluster"]

_API_PORT: Final = 6443
_NODE_USER: Final = f"system:node:{NODE_NAME}"
_PROXY_USER: Final = "system:kube-proxy"
_MORE_USERS: Final = {_NODE_USER: "system:nodes", _PROXY_USER: ""}
_NODE_GRACE_SECONDS: Final = 40  # as Kubernetes has it
# /run is empty after a power cycle; what was mounted below it (network namespaces, containers' roots) is gone
_EMPTY_RUN: Final = "umount -l $(grep -o ' /run/[^ ]*' /proc/mounts); find /run -mindepth 1 -delete; mkdir /run/lock"


class NodeCluster(RunningCluster):
    """One running node with its control plane. Make it with `NodeCluster.start`; use it as a context manager."""

    api_flags: ClassVar[Sequence[str]] = ()
    """Further flags of kube-apiserver, for subclasses."""

    def __init__(self, folder: Path, binaries: Path, node_binaries: Path, cards: int) -> None:
        """Open the namespaces and write credentials; starts nothing else."""
        reaper = Reaper(folder)
        files = control_plane.prepare(folder, f"https://{NODE_IP}:{_API_PORT}", _MORE_USERS)
        self._spaces = Namespaces.open(folder, NODE_NAME, reaper)
        self._cgroup = f"headroom-node-{secrets.token_hex(4)}"
        for path in cgroups.create(self._cgroup):
            reaper.guard_cgroup(path)
        token = files.tokens[control_plane.ADMIN]
        api = Api(NODE_IP, _API_PORT, token, files.certificate, self._spaces.network)
        super().__init__(folder, binaries, reaper, files, api)
        self._node_binaries = node_binaries
        self.cards = StubCards(folder / "nvml", cards)

    @classmethod
    def start(cls, *, cards: int = 2, labels: str = "headroom.dev/agent=true", prometheus: bool = False) -> Self:
        """Start everything and wait until the node is Ready. Raises BuildError, ComponentError, ClusterError."""
        binaries, node_binaries = find_binaries(CONTROL_PLANE), find_binaries(NODE)
        cluster = cls(Path(tempfile.mkdtemp(prefix="headroom-node-")), binaries, node_binaries, cards)
        try:
            cluster._launch_containerd()
            cluster._start_control_plane()
            cluster._start_node(labels)
            if prometheus:
                cluster.start_prometheus()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def stop(self) -> None:
        """End every process inside, containers included, and remove the folder and the control groups."""
        self._spaces.close()
        super().stop()

    # --- starting ---------------------------------------------------------------------------------------------------

    def _start_control_plane(self) -> None:
        binaries, files = self._binaries, self._files
        etcd_port = free_port()
        self.launch("etcd", control_plane.etcd_command(binaries, files, etcd_port))
        options = [
            "--bind-address=0.0.0.0",
            f"--advertise-address={NODE_IP}",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            "--kubelet-preferred-address-types=InternalIP",
            # Authorities of nobody: kube-schedulers read at their start the ConfigMap that comes with them.
            f"--client-ca-file={self._authority('clients')}",
            f"--requestheader-client-ca-file={self._authority('proxies')}",
            *self.api_flags,
        ]
        command = control_plane.api_server_command(binaries, files, _API_PORT, etcd_port, audit=True, options=options)
        self.run("kube-apiserver", command, ready=self._api_is_ready)
        port = free_port()
        manager = control_plane.controller_manager_command(
            binaries, files, port, node_grace_seconds=_NODE_GRACE_SECONDS
        )
        waiting = [
            self.launch("kube-controller-manager", manager, ready_url=f"https://127.0.0.1:{port}/healthz"),
            self._launch_scheduler("kube-scheduler", control_plane.scheduler_config()),
        ]
        self.apply(cluster_objects())
        for component in waiting:
            component.wait_ready(READY_SECONDS)

    def _authority(self, name: str) -> Path:
        path = self.folder / f"{name}.crt"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-keyout", "/dev/null", "-out", str(path), "-days", "2", "-subj", f"/CN=no {name}"]
        subprocess.run(command, check=True, capture_output=True)
        return path

    def _launch_containerd(self) -> None:
        runc = programs.program("runc", "runc")
        wrapper = write_wrapper(self.folder, runc, self.cards.library_folder)
        config = programs.containerd_config(self.folder, wrapper, runc)
        command = [str(self._node_binaries / "containerd"), "--config", str(config)]
        path = f"{self._node_binaries}:{os.environ['PATH']}"  # it looks for its shim there
        self.launch("containerd", command, ready=lambda: self._ctr("version"), environment={"PATH": path})

    def _start_node(self, labels: str) -> None:
        self.component("containerd").wait_ready()
        (self.folder / "images").mkdir()
        for archive in write_basic_images(self.folder / "images"):
            self.import_image(archive)
        self.launch("kube-proxy", programs.kube_proxy_command(self._binaries, self._files.kubeconfig(_PROXY_USER)))
        dns = [sys.executable, "-m", "simulations.node.inside.dns", NODE_IP, str(self.kubeconfig)]
        self.launch("dns", dns)
        config = programs.kubelet_config(self.folder, f"/{self._cgroup}")
        kubeconfig = self._files.kubeconfig(_NODE_USER)
        command = programs.kubelet_command(self._binaries, config, kubeconfig, labels)
        self.run("kubelet", command, ready=self._kubelet_is_ready)
        # Pods are refused before their namespace has its service account.
        self.wait_for(lambda: self.exists("/api/v1/namespaces/default/serviceaccounts/default"), "a service account")

    def _kubelet_is_ready(self) -> bool:
        if not self.answers("http://127.0.0.1:10248/healthz"):
            return False
        if not self.exists(f"/api/v1/nodes/{NODE_NAME}"):
            return False
        conditions = self.node()["status"].get("conditions", [])
        return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)

    def start_prometheus(self, scrape_interval: str = "1s") -> PrometheusServer:
        """Prometheus, which pods reach as prometheus-operated.monitoring:9090. Name its targets with `scrape_each`: Debian's
        is built without Kubernetes discovery."""
        self.prometheus = PrometheusServer(self.folder / "prometheus", PROMETHEUS_PORT, scrape_interval, host=NODE_IP)
        self.run("prometheus", self.prometheus.command(), ready_url=f"{self.prometheus.url}/-/ready")
        return self.prometheus

    def _component(
        self,
        name: str,
        command: Sequence[str],
        ready: Callable[[], bool] | None,
        environment: Mapping[str, str] | None,
    ) -> Component:
        log = self.folder / f"{name}.log"
        return InsideComponent(
            name, command, self._spaces, log=log, reaper=self._reaper, ready=ready, environment=environment
        )

    # --- access -----------------------------------------------------------------------------------------------------

    @property
    def binaries(self) -> Path:
        """Folder of kubectl and the rest."""
        return self._binaries

    def prefix(self) -> list[str]:
        """What runs a command inside the node."""
        return self._spaces.prefix()

    def network(self) -> AbstractContextManager[None]:
        """Sockets made meanwhile are of the node's network."""
        return self._spaces.network()

    def inside(self, *command: str, check: bool = True, timeout_seconds: float = 60.0) -> str:
        """Run a program of this machine inside the node; its standard output. Raises CalledProcessError."""
        done = subprocess.run(
            [*self.prefix(), *command], capture_output=True, text=True, check=check, timeout=timeout_seconds
        )
        return done.stdout

    def get(self, url: str, timeout_seconds: float = 5.0) -> str:
        """Body of a GET from inside the node's network. Raises OSError."""
        with self.network(), urllib.request.urlopen(url, timeout=timeout_seconds) as answer:
            text: bytes = answer.read()
        return text.decode()

    def node(self) -> dict[str, Any]:
        """The Node object."""
        found: dict[str, Any] = self.api.get(f"/api/v1/nodes/{NODE_NAME}")
        return found

    def pod(self, name: str, namespace: str = "default") -> dict[str, Any]:
        """One pod. Raises ApiError when it is not there."""
        found: dict[str, Any] = self.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        return found

    def logs(self, name: str, namespace: str = "default") -> str:
        """What a pod has printed so far; empty while it has not started."""
        command = [*self.prefix(), str(self._binaries / "kubectl"), f"--kubeconfig={self.kubeconfig}"]
        done = subprocess.run([*command, "-n", namespace, "logs", name], capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""

    def environment(self, name: str) -> dict[str, str]:
        """What `env` printed in the container of a pod of the default namespace, once it has."""
        self.wait_for(lambda: self.logs(name), f"the log of {name}")
        return dict(line.partition("=")[::2] for line in self.logs(name).splitlines())

    def path(self, inside: str) -> Path:
        """A path of the node as it is reached from outside."""
        return Path(f"/proc/{self._spaces.pid}/root{inside}")

    # --- images and containers --------------------------------------------------------------------------------------

    def _ctr(self, *arguments: str, timeout_seconds: float = 120.0) -> bool:
        command = [*self.prefix(), str(self._node_binaries / "ctr"), "-n", "k8s.io", *arguments]
        done = subprocess.run(command, capture_output=True, check=False, timeout=timeout_seconds)
        return done.returncode == 0

    def import_image(self, archive: Path) -> None:
        """Make an image of an archive known to the node. Raises CalledProcessError."""
        self.inside(
            str(self._node_binaries / "ctr"), "-n", "k8s.io", "images", "import", str(archive), timeout_seconds=300
        )

    def containers_seen(self) -> list[dict[str, Any]]:
        """What the OCI runtime was asked to create so far: see `inside/runtime.py`."""
        log = self.folder / "containers.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    # --- device plugin ----------------------------------------------------------------------------------------------

    def start_plugin(
        self,
        replicas: int = 4,
        policy: str = "distributed",
        *,
        links: str = "",
        ties: str = "random",
        seed: int = 1,
        mps: bool = False,
    ) -> Component:
        """Advertise the stub's cards as nvidia.com/gpu, and wait until the API server knows of it."""
        self.set_unhealthy(())
        log = self.folder / "plugin.jsonl"
        log.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "simulations.node.plugin.device_plugin",
            f"--cards={','.join(self.cards.uuids)}",
        ]
        command += [
            f"--replicas={replicas}",
            f"--policy={policy}",
            f"--links={links}",
            f"--ties={ties}",
            f"--seed={seed}",
        ]
        command += [f"--state={self.folder / 'plugin.json'}", f"--log={log}", *(["--mps"] if mps else [])]
        component = self.run("device-plugin", command)
        self.wait_for_devices(replicas * len(self.cards.uuids))
        return component

    def stop_plugin(self) -> None:
        """End the device plugin if it runs, and wait until the API server knows that no device is left."""
        if "device-plugin" in self._components:
            self.component("device-plugin").kill()
            self.wait_for_devices(0)

    def wait_for_devices(self, count: int) -> None:
        """Until the node's status says that so many devices can be allocated."""

        def there() -> bool:
            return bool(self.node()["status"]["allocatable"].get("nvidia.com/gpu", "0") == str(count))

        self.wait_for(there, f"{count} devices in the node's status")

    def set_unhealthy(self, devices: Sequence[str]) -> None:
        """The device ids that the plugin calls unhealthy from now on."""
        path = self.folder / "plugin.json"
        path.with_suffix(".part").write_text(json.dumps({"unhealthy": list(devices)}))
        path.with_suffix(".part").rename(path)

    def plugin_calls(self, call: str = "Allocate") -> list[dict[str, Any]]:
        """What kubelet has asked the plugin since it was started."""
        lines = [json.loads(line) for line in (self.folder / "plugin.jsonl").read_text().splitlines()]
        return [line for line in lines if line["call"] == call]

    def held_devices(self) -> tuple[Device, ...]:
        """What kubelet says pods hold, by its PodResources API."""

        async def ask() -> tuple[Device, ...]:
            client = PodResources(str(self.path("/var/lib/kubelet/pod-resources/kubelet.sock")))
            try:
                return await client.devices()
            finally:
                await client.close()

        return asyncio.run(ask())

    # --- static pods ------------------------------------------------------------------------------------------------

    def write_static_pod(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Have kubelet run a pod from a file; it appears in the API as NAME-NODE."""
        path = self.folder / "static-pods" / f"{name}.yaml"
        path.with_suffix(".part").write_text(json.dumps(manifest))
        path.with_suffix(".part").rename(path)

    def remove_static_pod(self, name: str) -> None:
        """Take the file away."""
        (self.folder / "static-pods" / f"{name}.yaml").unlink()

    # --- faults -----------------------------------------------------------------------------------------------------

    def reboot(self) -> None:
        """All that a power cycle ends, at once: kubelet, the container runtime, every container, the device plugin. Then
        kubelet and containerd start again, with a new boot id; the device plugin does not."""
        going = ["kubelet", "device-plugin", "containerd", "kube-proxy"]
        for name in going:
            if name in self._components:
                self.component(name).kill()
        self.inside("pkill", "-KILL", "-f", "containerd-shim-runc-v2", check=False)
        for process in cgroups.processes(self._cgroup):
            with_pid = Path(f"/proc/{process}")
            if with_pid.exists():
                os.kill(process, 9)
        self.inside(
            "sh",
            "-c",
            "umount -l $(grep -o ' /run/[^ ]*' /proc/mounts) 2>/dev/null; rm -rf /run/* ; mkdir /run/lock",
            check=False,
        )
        (self.folder / "tunables" / "boot_id").write_text(f"{secrets.token_hex(16)}\n")
        self.component("containerd").start()
        self.component("kube-proxy").start()
        self.component("kubelet").start()

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

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from headroom.domain.model import GpuNode
from simulations.kwok import control_plane
from simulations.kwok.api import Api
from simulations.kwok.build import find_binaries
from simulations.kwok.control_plane import HOST, scheduler_config
from simulations.kwok.nodes import Description, node_manifest
from simulations.kwok.process import Reaper, free_port
from simulations.kwok.running import READY_SECONDS, ClusterError, RunningCluster

__all__ = ["Cluster", "ClusterError", "scheduler_config"]


class Cluster(RunningCluster):
    """One running control plane. Make it with `Cluster.start`; use it as a context manager or call `stop`."""

    api_flags: ClassVar[Sequence[str]] = ()
    """Further flags of kube-apiserver, for subclasses."""

    def __init__(self, folder: Path, binaries: Path, *, audit: bool, keep: bool) -> None:
        """Allocate ports and write credentials; starts nothing but the guard of its processes."""
        reaper = Reaper(folder if not keep else folder / "nothing-to-remove")
        self._api_port, self._etcd_port, self._audit = free_port(), free_port(), audit
        files = control_plane.prepare(folder, f"https://{HOST}:{self._api_port}")
        api = Api(HOST, self._api_port, files.tokens[control_plane.ADMIN], files.certificate)
        super().__init__(folder, binaries, reaper, files, api)

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

    # --- components -------------------------------------------------------------------------------------------------

    def _start_control_plane(self, config: Mapping[str, Any] | str | None, without: Sequence[str]) -> None:
        binaries, files = self._binaries, self._files
        etcd = control_plane.etcd_command(binaries, files, self._etcd_port)
        self.run("etcd", etcd, ready_url=f"http://{HOST}:{self._etcd_port}/health")
        self.run(
            "kube-apiserver",
            [
                *control_plane.api_server_command(binaries, files, self._api_port, self._etcd_port, audit=self._audit),
                *self.api_flags,
            ],
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
            component.wait_ready(READY_SECONDS)
        if "kube-controller-manager" not in without:
            # Pods are refused before their namespace has its service account.
            self.wait_for(
                lambda: self.exists("/api/v1/namespaces/default/serviceaccounts/default"), "the default service account"
            )

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

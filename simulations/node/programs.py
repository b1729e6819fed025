"""Configuration files and command lines of what runs on the node itself: containerd, kubelet, kube-proxy.

Each setting that a real node would not have is here because of the machine that plays one, and says so.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Final

from simulations.kwok.process import ComponentError
from simulations.node.namespaces import NODE_IP

POD_SUBNET: Final = "10.88.0.0/24"
CLUSTER_DNS: Final = "10.96.0.10"
NODE_NAME: Final = "gpu-node-1"
PAUSE: Final = "localhost/pause:1"
"""Image of the container that holds a pod's namespaces."""
_NETWORK_PLUGINS: Final = "/usr/lib/cni"


def program(name: str, package: str) -> str:
    """Path of a program of the system's. Raises ComponentError that names the package."""
    found = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        raise ComponentError(f"no `{name}` here: run tools/install-prerequisites.sh (Debian: {package})")
    return found


def containerd_config(folder: Path, runtime: Path, runc: str) -> Path:
    """containerd with runc, and with a stand-in for NVIDIA's runtime as the default, as GPU nodes have it."""
    plugins = Path(_NETWORK_PLUGINS)
    if not (plugins / "ptp").exists():
        raise ComponentError(f"no {plugins}/ptp: run tools/install-prerequisites.sh (containernetworking-plugins)")
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_SUBNET}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    network = {
        "cniVersion": "1.0.0",
        "name": "pods",
        # ptp: every pod has a link of its own to the node, so that all traffic is routed and Services work between pods
        "plugins": [{"type": "ptp", "mtu": 1500, "ipam": ipam}],
    }
    (folder / "cni").mkdir()
    (folder / "cni" / "10-pods.conflist").write_text(json.dumps(network))
    runtimes = "".join(
        f"""
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{name}]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{name}.options]
        BinaryName = "{binary}"
        SystemdCgroup = false"""
        for name, binary in (("runc", runc), ("nvidia", runtime))
    )
    # No process may go below the machine's own out-of-memory score without CAP_SYS_RESOURCE, hence the first three.
    text = f"""version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_apparmor = true
  enable_cdi = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{plugins}"]
    conf_dir = "{folder / "cni"}"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "nvidia"{runtimes}
"""
    path = folder / "containerd.toml"
    path.write_text(text)
    return path


def kubelet_config(folder: Path, cgroup_root: str) -> Path:
    """kubelet as on a node with its defaults, but for control groups of version 1 and a machine that is not its own."""
    (folder / "resolv.conf").write_text(f"nameserver {NODE_IP}\n")
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_IP,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,  # everything below one folder of its own, removed at the end
        "failCgroupV1": False,  # test machines may still be of version 1
        "clusterDNS": [CLUSTER_DNS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(folder / "resolv.conf"),
        "staticPodPath": str(folder / "static-pods"),
        "oomScoreAdj": 0,  # as for containerd
        "maxOpenFiles": 20000,
        "protectKernelDefaults": True,  # reads the tunables that init.py has covered, and writes none
        "failSwapOn": False,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "volumePluginDir": str(folder / "volume-plugins"),
        "serializeImagePulls": False,
    }
    (folder / "static-pods").mkdir()
    path = folder / "kubelet.yaml"
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML
    return path


def kubelet_command(binaries: Path, config: Path, kubeconfig: Path, labels: str) -> list[str]:
    """kubelet under the node's own identity."""
    return [
        str(binaries / "kubelet"),
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={NODE_IP}",
        "--root-dir=/var/lib/kubelet",
        f"--node-labels={labels}",
        "-v=2",
    ]


def kube_proxy_command(binaries: Path, kubeconfig: Path) -> list[str]:
    """kube-proxy by nftables; connection tracking limits are the machine's, and stay."""
    return [
        str(binaries / "kube-proxy"),
        f"--kubeconfig={kubeconfig}",
        "--proxy-mode=nftables",
        f"--hostname-override={NODE_NAME}",
        f"--cluster-cidr={POD_SUBNET}",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    ]

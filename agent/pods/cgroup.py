"""Which pod and container a process belongs to, from the text of its `/proc/PID/cgroup`.

Paths are made by kubelet and the container runtime; the forms differ by cgroup version, cgroup driver and runtime:
`.../kubepods/burstable/pod<uid>/<container>` (cgroupfs), `...-pod<uid with underscores>.slice/cri-containerd-<container>.scope`
(systemd, with `crio-` or `docker-` for other runtimes), `...-pod<uid>.slice:cri-containerd:<container>` (containerd whose own driver
is cgroupfs under a systemd kubelet). A node inside a container (kind) adds a prefix, a cgroup namespace starts paths with `/..`.
"""

import re
from dataclasses import dataclass
from typing import Final

# A pod UID, or the 32 hexadecimal digits that kubelet makes for a static pod.
_UID: Final = r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32}"
_POD: Final = re.compile(rf"(?:^|[/-])pod({_UID})(?=\.slice|/|:|$)")
_CONTAINER: Final = re.compile(r"(?:[/:]|(?:cri-containerd|crio|docker)-)([0-9a-f]{64})(?=\.scope|/|:|$)")
_LONGEST: Final = 65_536


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose process it is. Empty `container_id`: somewhere in the pod, the container cannot be told."""

    pod_uid: str
    container_id: str = ""


def owner_of(text: str) -> Owner | None:
    """The pod and container named by the content of a `/proc/PID/cgroup` file; None for a process outside any pod."""
    for line in text[:_LONGEST].splitlines():
        # hierarchy-ID:controllers:path, and the path may hold colons itself.
        path = line.split(":", 2)[-1]
        pods = list(_POD.finditer(path))
        if not pods:
            continue
        # The innermost pod: nodes that run inside pods nest one tree in another.
        pod = pods[-1]
        container = _CONTAINER.search(path, pod.end())
        return Owner(_dashed(pod.group(1)), container.group(1) if container else "")
    return None


def _dashed(uid: str) -> str:
    return uid.replace("_", "-")

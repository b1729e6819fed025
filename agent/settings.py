"""Settings of the node agent."""

from dataclasses import dataclass

from headroom.daemon.common import CommonSettings
from headroom.daemon.settings import setting
from headroom.domain.model import LARGEST_MIB, MOST_SLICES


@dataclass(frozen=True)
class AgentSettings(CommonSettings):
    """Each also as a flag, a HEADROOM_AGENT_* variable, or a key of the configuration file."""

    node: str = setting("", reason="Name of this Node; the DaemonSet passes spec.nodeName.")
    interval_seconds: float = setting(
        5.0,
        unit="s",
        minimum=0.1,
        maximum=300.0,
        reason="Time between readings. A fault reported by the driver is seen at once.",
    )
    script: str = setting(
        "", reason="Read cards from this file instead of NVML: for nodes without cards, and demonstrations."
    )
    proc: str = setting("/proc", reason="Where the host's /proc is; needed to find the pod of a process.")
    podresources_socket: str = setting(
        "/var/lib/kubelet/pod-resources/kubelet.sock",
        reason="Kubelet's socket that tells who holds which device; `off` does without.",
    )
    podresources_timeout_seconds: float = setting(
        2.0, unit="s", minimum=0.1, maximum=60.0, reason="Longest wait for kubelet's answer."
    )
    settle_seconds: float = setting(
        60.0, unit="s", minimum=0.0, reason="How long a card must be without trouble before it is given out again."
    )
    ignored_xids: tuple[int, ...] = setting(
        (13, 31, 43, 45, 68, 109), reason="Xid errors of programs, which say nothing about the card."
    )
    slices: int = setting(
        0,
        minimum=0,
        maximum=MOST_SLICES,
        reason="Time slices per card; 0 takes what kubelet's list or the Node says, else 1.",
    )
    unified_memory_mib: int = setting(
        0,
        unit="MiB",
        minimum=0,
        maximum=LARGEST_MIB,
        reason="Memory of a card that reports none because it shares the host's (GB10), as much as pods may have of it; 0 publishes"
        " it without a size: it then goes out whole.",
    )
    excluded_cards: tuple[str, ...] = setting(
        (),
        reason="Cards to leave to others, by UUID, index or model. Keep the device plugin from handing them out, too.",
    )
    forget_seconds: float = setting(
        86_400.0,
        unit="s",
        minimum=60.0,
        reason="After this long a card that the driver no longer lists counts as replaced; a repaired one is back within a day.",
    )
    trespass_mib: int = setting(
        256,
        unit="MiB",
        minimum=0,
        maximum=2**20,
        reason="Memory beyond its share, or on a card that is not its own, up to which nothing is said of a pod: the contexts of"
        " monitoring tools take that much.",
    )
    publish_capacity: bool = setting(
        False,
        reason="Without effect, and gone in the next release: a capacity of headroom.dev/vram made kubelet refuse pods. One that an"
        " earlier version left behind is taken away.",
    )
    lock_file: str = setting(
        "", reason="Held while this agent is the node's only one; a second one waits. Empty: no lock."
    )
    keep_finished_seconds: float = setting(
        600.0,
        unit="s",
        minimum=0.0,
        reason="How long the series of a pod that is gone stay, so that its last amounts are collected.",
    )
    tariff: str = setting("", reason="File with prices, budgets and idle power; see docs/usage.md.")
    port: int = setting(
        8903, minimum=0, maximum=65535, reason="Port of the probes and the metrics; 0 takes a free one."
    )

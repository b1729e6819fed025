"""Settings of the node agent."""

from dataclasses import dataclass

from headroom.daemon.common import CommonSettings
from headroom.daemon.settings import setting
from headroom.domain.model import LARGEST_MIB, MOST_SLICES


@dataclass(frozen=True)
class AgentSettings(CommonSettings):
    """Each also as a flag, a HEADROOM_AGENT_* variable, or a key of the configuration file."""

    node: str = setting("", reason="Name of this agent's Node; the DaemonSet passes spec.nodeName.")
    interval_seconds: float = setting(
        5.0,
        unit="s",
        minimum=0.1,
        maximum=300.0,
        reason="Time between readings. A fault reported by the driver is seen at once.",
    )
    script: str = setting(
        "", reason="File to read cards from instead of NVML, for nodes without cards and for demonstrations."
    )
    proc: str = setting("/proc", reason="Path of the host's /proc, which is needed to find the pod of a process.")
    podresources_socket: str = setting(
        "/var/lib/kubelet/pod-resources/kubelet.sock",
        reason="Kubelet's socket that tells which pod holds which device; `off` to work without it.",
    )
    podresources_timeout_seconds: float = setting(
        2.0, unit="s", minimum=0.1, maximum=60.0, reason="Longest wait for kubelet's answer."
    )
    settle_seconds: float = setting(
        60.0,
        unit="s",
        minimum=0.0,
        reason="How long a faulty card must be without errors before it is given out again.",
    )
    ignored_xids: tuple[int, ...] = setting(
        (13, 31, 43, 45, 68, 109),
        reason="Xid errors to ignore, because programs cause them and the card is not at fault.",
    )
    slices: int = setting(
        0,
        minimum=0,
        maximum=MOST_SLICES,
        reason="Time slices per card. 0: as kubelet's list or the Node says, or 1 if neither says anything.",
    )
    unified_memory_mib: int = setting(
        0,
        unit="MiB",
        minimum=0,
        maximum=LARGEST_MIB,
        reason="How much memory pods may have of a card that reports none because it shares the host's memory (GB10). 0: the card"
        " is published without a size, and only given out whole.",
    )
    excluded_cards: tuple[str, ...] = setting(
        (),
        reason="Cards that Headroom leaves alone, by UUID, index or model. Configure the device plugin not to hand them out,"
        " either.",
    )
    forget_seconds: float = setting(
        86_400.0,
        unit="s",
        minimum=60.0,
        reason="A card that the driver has not listed for so long counts as replaced. A card that is repaired is back within a day.",
    )
    trespass_mib: int = setting(
        256,
        unit="MiB",
        minimum=0,
        maximum=2**20,
        reason="A pod may use this much memory beyond its share, or on a card not given to it, before it is reported: the contexts"
        " of monitoring tools take that much.",
    )
    publish_capacity: bool = setting(
        False,
        reason="Without effect, and removed in the next release: a capacity of headroom.dev/vram made kubelet refuse pods. A"
        " capacity that an earlier version left behind is removed.",
    )
    lock_file: str = setting(
        "", reason="File that this agent locks while it runs; a second agent on the node waits for it. Empty: no lock."
    )
    keep_finished_seconds: float = setting(
        600.0,
        unit="s",
        minimum=0.0,
        reason="How long the metrics of a pod stay after its end, so that Prometheus can scrape its last amounts.",
    )
    tariff: str = setting("", reason="File with prices, budgets and idle power. See docs/usage.md.")
    port: int = setting(
        8903, minimum=0, maximum=65535, reason="Port of the probes and the metrics; 0 takes a free one."
    )

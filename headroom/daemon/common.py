"""Settings that every daemon has."""

from dataclasses import dataclass

from headroom.daemon.settings import setting

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True)
class CommonSettings:
    """Where a daemon listens, how it finds the API server, and how much it says. Each daemon has a port of its own."""

    host: str = setting("0.0.0.0", reason="Address to listen on; probes and Prometheus come from outside the pod.")
    port: int = setting(0, minimum=0, maximum=65535, reason="Port of the probes and the metrics.")
    kubeconfig: str = setting(
        "", reason="Path of a kubeconfig. If empty, $KUBECONFIG is used, else the pod's service account."
    )
    log_level: str = setting("INFO", choices=LOG_LEVELS, reason="Lowest level of messages that are logged.")


@dataclass(frozen=True)
class LeaderSettings(CommonSettings):
    """Of daemons that run several times and act once."""

    lease_namespace: str = setting(
        "", reason="Namespace of the Lease by which several processes elect the one that acts."
    )
    lease_name: str = setting("", reason="Name of that Lease.")
    lease_seconds: float = setting(
        15.0,
        unit="s",
        minimum=1.0,
        reason="A leader that has not renewed the Lease for so long is replaced. It stops acting by itself before that.",
    )

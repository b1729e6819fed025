"""How a Prometheus is reached: the settings that scheduler, autoscaler and `headroom usage` share."""

from dataclasses import dataclass

from headroom.daemon.settings import setting


@dataclass(frozen=True)
class PrometheusSettings:
    """A mix-in; docs/prometheus.md has a row for each platform. Files are read again when they change."""

    prometheus_url: str = setting(
        "",
        reason="Address of the Prometheus, Thanos, Mimir or VictoriaMetrics to read, with its path prefix if it has one.",
    )
    prometheus_timeout_seconds: float = setting(
        5.0, unit="s", minimum=0.1, maximum=600.0, reason="A slower answer counts as none."
    )
    prometheus_bearer_token_file: str = setting(
        "", reason="File with a bearer token for it (OpenShift: the service account's own)."
    )
    prometheus_ca_file: str = setting(
        "", reason="File with the certificates (PEM) that its own is checked against; empty for the system's."
    )
    prometheus_client_cert_file: str = setting(
        "", reason="File with a client certificate (PEM), for servers that ask for one."
    )
    prometheus_client_key_file: str = setting(
        "", reason="File with that certificate's key; empty if it is in the same."
    )
    prometheus_headers: tuple[str, ...] = setting(
        (), reason="Headers to send, as NAME=VALUE, several by comma, such as X-Scope-OrgID=team-a."
    )
    prometheus_headers_file: str = setting(
        "", reason="File with further headers, one `NAME: VALUE` a line, for those that are secret."
    )
    prometheus_matchers: tuple[str, ...] = setting(
        (),
        reason="Matchers added to every query, several by comma, such as cluster=prod: for a server that holds several clusters.",
    )

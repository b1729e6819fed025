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
        "", reason="File with a bearer token for Prometheus (on OpenShift: the service account's token)."
    )
    prometheus_ca_file: str = setting(
        "",
        reason="File with the certificates (PEM) by which Prometheus' certificate is checked. If empty, the system's are used.",
    )
    prometheus_client_cert_file: str = setting(
        "", reason="File with a client certificate (PEM), if Prometheus asks for one."
    )
    prometheus_client_key_file: str = setting(
        "", reason="File with the key of the client certificate; empty if the key is in the same file."
    )
    prometheus_headers: tuple[str, ...] = setting(
        (), reason="Headers to send to Prometheus, as NAME=VALUE, separated by commas, such as X-Scope-OrgID=team-a."
    )
    prometheus_headers_file: str = setting(
        "", reason="File with further headers, for secret ones: one `NAME: VALUE` on each line."
    )
    prometheus_matchers: tuple[str, ...] = setting(
        (),
        reason="Label matchers that are added to every query, separated by commas, such as cluster=prod. For a Prometheus with"
        " metrics of several clusters.",
    )

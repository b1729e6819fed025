"""Every way of getting no answer from Prometheus."""

from headroom.errors import HeadroomError


class PrometheusError(HeadroomError):
    """Prometheus gave no usable answer."""


class PrometheusUnreachableError(PrometheusError):
    """Nobody answers at the address, or the connection cannot be made."""


class PrometheusTimeoutError(PrometheusError):
    """The answer did not come in time."""


class PrometheusQueryError(PrometheusError):
    """Prometheus refuses the query; asking again will not help. `reason` holds the server's own words."""

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason or text


class PrometheusTooLongError(PrometheusQueryError):
    """The query is longer than the server, or a proxy before it, takes."""


class PrometheusAnswerError(PrometheusError):
    """The server answers, but not as Prometheus does when it is well."""

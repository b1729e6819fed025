"""What the rest of Headroom knows of the Kubernetes API: raw requests and watches, and its errors.

Bytes in, bytes out: callers decode the few fields they use with msgspec (typed client models take seconds for a few thousand
pods). `headroom.kube.aio` implements the Protocol.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from headroom.errors import HeadroomError

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"

Query = Sequence[tuple[str, str]]


class KubeError(HeadroomError):
    """The API server refused or could not be reached. `code` is the HTTP status, 0 when there was no answer."""

    def __init__(
        self, message: str, *, code: int = 0, reason: str = "", retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class KubeConfigError(KubeError):
    """No usable kubeconfig or service account."""


class Unreachable(KubeError):  # noqa: N818 - the API's own words for its answers, not Python's
    """Connection refused, reset or timed out."""


class BadRequest(KubeError):  # noqa: N818
    """400: the API server could not read the request."""


class Unauthorized(KubeError):  # noqa: N818
    """401: no or unknown credentials."""


class Forbidden(KubeError):  # noqa: N818
    """403: RBAC, admission or quota."""


class NotFound(KubeError):  # noqa: N818
    """404."""


class Conflict(KubeError):  # noqa: N818
    """409: another writer was first, a UID differs, or a pod is bound already."""


class Gone(KubeError):  # noqa: N818
    """410: the resource version is too old; list again."""


class Unprocessable(KubeError):  # noqa: N818
    """422: the object is invalid."""


class TooManyRequests(KubeError):  # noqa: N818
    """429: throttled, or an eviction that a PodDisruptionBudget forbids."""


class ServerError(KubeError):
    """5xx."""


_BY_CODE: Final[Mapping[int, type[KubeError]]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Unprocessable,
    429: TooManyRequests,
}


class Status(msgspec.Struct):
    """The API server's `Status` object, as far as we read it."""

    code: int = 0
    reason: str = ""
    message: str = ""


_STATUS: Final = msgspec.json.Decoder(Status)


def error_for(code: int, body: bytes, *, what: str, retry_after_seconds: float | None = None) -> KubeError:
    """The exception that stands for an HTTP status of 400 or more; `what` names the call for the reader."""
    try:
        status = _STATUS.decode(body)
    except msgspec.MsgspecError:
        status = Status()
    # What is proxied answers in its own words.
    message = status.message or body[:500].decode(errors="replace")
    kind = _BY_CODE.get(code, ServerError if code >= 500 else KubeError)
    return kind(f"{what}: {code} {message}", code=code, reason=status.reason, retry_after_seconds=retry_after_seconds)


class WatchEvent(msgspec.Struct, gc=False):
    """One line of a watch. `type` is ADDED, MODIFIED, DELETED or BOOKMARK; `object` is not decoded yet."""

    type: str
    object: msgspec.Raw


class KubeClient(Protocol):
    """Access to one API server."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        content_type: str = JSON,
        timeout_seconds: float = 10.0,
    ) -> bytes:
        """One call. `body` is encoded as JSON unless it is bytes already. Raises KubeError."""
        ...

    def watch(self, path: str, resource_version: str, *, query: Query = ()) -> AsyncIterator[WatchEvent]:
        """Events after `resource_version` until the server ends the stream. Raises Gone when the version is too old, KubeError else."""
        ...

    async def close(self) -> None:
        """Release the connections."""
        ...

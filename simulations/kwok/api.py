"""A small blocking client of the API server for setting a scene: creating nodes and pods by the thousand, asking for state.

The daemons under test have their own client; this one is separate, so that a fault in theirs cannot hide itself.
"""

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from headroom.errors import HeadroomError

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
_TIMEOUT_SECONDS: Final = 30.0
_WRITERS: Final = 8
_IDLE_SECONDS: Final = 20.0  # the server closes a connection that was silent for longer than about a minute


class ApiError(HeadroomError):
    """The API server refused; `code` is the HTTP status, `reason` the API's word for it (`NotFound`)."""

    def __init__(self, method: str, path: str, code: int, body: bytes) -> None:
        try:
            status = json.loads(body)
        except ValueError:
            status = {}
        message = status.get("message") or body[:200].decode(errors="replace")
        super().__init__(f"{method} {path}: {code} {message}")
        self.code, self.reason, self.message = code, str(status.get("reason", "")), message


class Api:
    """Requests to one API server with one bearer token; each thread has a connection of its own, kept open."""

    def __init__(
        self,
        host: str,
        port: int,
        token: str,
        certificate: Path,
        network: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`network` is entered to connect: where the server is in a network namespace of its own."""
        self._host, self._port, self._token, self._certificate = host, port, token, certificate
        self._network = network
        self._local = threading.local()

    def request(
        self, method: str, path: str, body: Any = None, *, query: dict[str, str] | None = None, content_type: str = JSON
    ) -> Any:
        """The decoded answer (None when it has no body, text when it is not JSON). Raises ApiError, OSError when unreachable."""
        target = f"{path}?{urlencode(query)}" if query else path
        headers = {"Authorization": f"Bearer {self._token}", "Accept": JSON}
        data = None
        if body is not None:
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            headers["Content-Type"] = content_type
        code, kind, answer = self._send(method, target, data, headers)
        if code >= http.HTTPStatus.BAD_REQUEST:
            raise ApiError(method, path, code, answer)
        if not answer:
            return None
        return json.loads(answer) if kind.startswith(JSON) else answer.decode()

    def get(self, path: str, **query: str) -> Any:
        """GET, with query parameters by keyword."""
        return self.request("GET", path, query=query or None)

    def items(self, path: str, **query: str) -> list[dict[str, Any]]:
        """The items of a list."""
        found = self.get(path, **query)["items"]
        assert isinstance(found, list)
        return found

    def patch(self, path: str, body: Any) -> Any:
        """Merge patch."""
        return self.request("PATCH", path, body, content_type=MERGE_PATCH)

    def create_all(self, objects: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """POST many (path, object) pairs, eight at a time. Raises the first ApiError."""
        self._concurrently("POST", objects)

    def delete_all(self, paths: Iterable[str], body: dict[str, Any] | None = None) -> None:
        """DELETE many objects, eight at a time; those already gone are fine. Raises the first other ApiError."""
        self._concurrently("DELETE", ((path, body) for path in paths))

    def _concurrently(self, method: str, calls: Iterable[tuple[str, dict[str, Any] | None]]) -> None:
        def one(call: tuple[str, dict[str, Any] | None]) -> None:
            try:
                self.request(method, call[0], call[1])
            except ApiError as error:
                if not (method == "DELETE" and error.code == http.HTTPStatus.NOT_FOUND):
                    raise

        with ThreadPoolExecutor(_WRITERS) as pool:
            for _ in pool.map(one, calls):
                pass

    def _send(self, method: str, target: str, data: bytes | None, headers: dict[str, str]) -> tuple[int, str, bytes]:
        connection, reused = self._connection()
        try:
            if connection.sock is None:
                with self._network():
                    connection.connect()
            connection.request(method, target, data, headers)
            response = connection.getresponse()
            answer = response.status, response.getheader("Content-Type", ""), response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._local.connection = None
            if reused and method == "GET":  # the server was restarted in between
                return self._send(method, target, data, headers)
            if isinstance(error, OSError):
                raise
            raise ConnectionError(f"{method} {target}: {error!r}") from error
        self._local.connection, self._local.used_at = connection, time.monotonic()
        return answer

    def _connection(self) -> tuple[http.client.HTTPSConnection, bool]:
        """This thread's connection, and whether it has been used before."""
        kept: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if kept is not None:
            if time.monotonic() - self._local.used_at < _IDLE_SECONDS:
                return kept, True
            kept.close()
        context = ssl.create_default_context(cafile=str(self._certificate))
        return http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT_SECONDS, context=context), False

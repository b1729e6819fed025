"""The Kubernetes API over aiohttp. A kubeconfig is read by the `kubernetes` package (this is the only importer of it).

Its generated models and its request serialiser are not used: they cost seconds per thousand pods and tens of MiB. It is not even
imported in a pod, where `headroom.kube.service_account` knows all there is to know.
"""

import contextlib
import logging
import os
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
import msgspec
from yaml import YAMLError
from yarl import URL

from headroom.kube import kubeconfig
from headroom.kube.client import JSON, KubeConfigError, KubeError, Query, Unreachable, WatchEvent, error_for
from headroom.kube.service_account import ServiceAccount

_EVENT: Final = msgspec.json.Decoder(WatchEvent)
_STATUS_CODE: Final = msgspec.json.Decoder(dict[str, Any])
# The first bookmark of a watch comes after about a minute: a silence of 150 s means a dead connection.
_WATCH_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=150)
_LONGEST_LINE: Final = 2**24  # a watch event holds a whole object; etcd's own limit is 1.5 MiB
_CONNECTIONS: Final = 32  # more would only queue up in the API server, and each costs two machines a TLS handshake


async def connect(kubeconfig: str | None = None, context: str | None = None) -> "AioKubeClient":
    """Connect with `kubeconfig`, else $KUBECONFIG, else the pod's service account, else ~/.kube/config. Raises KubeConfigError."""
    explicit = kubeconfig or os.environ.get("KUBECONFIG")
    if explicit is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
        return AioKubeClient(ServiceAccount(os.environ))
    return AioKubeClient(await _from_kubeconfig(explicit, context))


async def _from_kubeconfig(explicit: str | None, context: str | None) -> Any:
    try:
        from kubernetes.aio.client.configuration import Configuration
        from kubernetes.aio.config import config_exception, kube_config
    except ModuleNotFoundError as error:
        raise KubeConfigError(
            "no `kubernetes` package here to read a kubeconfig with (the image has none, since pods have service accounts): "
            "install Headroom from a checkout, or run in a pod"
        ) from error

    configuration = Configuration()
    kubeconfig.check(explicit, context)
    logging.getLogger("kubernetes.aio.config.kube_config").setLevel(logging.ERROR)  # `check` says it in words
    try:
        await kube_config.load_kube_config(
            config_file=explicit or os.path.expanduser("~/.kube/config"),
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )
    except (TypeError, AttributeError) as error:
        raise KubeConfigError(f"kubeconfig {explicit or 'in the default location'}: not a kubeconfig") from error
    except (config_exception.ConfigException, OSError, YAMLError, KeyError) as error:
        raise KubeConfigError(
            f"no usable Kubernetes configuration ({explicit or 'default locations'}): {error}"
        ) from error
    return configuration


class AioKubeClient:
    """KubeClient over one aiohttp session."""

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration
        self._host = str(configuration.host).rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=_tls(configuration), keepalive_timeout=60),
            read_bufsize=2**20,
        )

    async def _headers(self, content_type: str) -> dict[str, str]:
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": "headroom"}
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        if token:
            headers["Authorization"] = token
        return headers

    def _url(self, path: str, query: Query) -> URL:
        return URL(self._host + path).update_query(query) if query else URL(self._host + path)

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
        """See KubeClient."""
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        what = f"{method} {path}"
        try:
            async with self._session.request(
                method,
                self._url(path, query),
                data=data,
                headers=await self._headers(content_type),
                timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            ) as response:
                answer = await response.read()
                if response.status >= 400:
                    raise error_for(response.status, answer, what=what, retry_after_seconds=_retry_after(response))
                if answer[:1] == b"<":
                    raise Unreachable(
                        f"{what}: {self._host} answered something that is no Kubernetes API (a proxy's login page?)"
                    )
                return answer
        except TimeoutError as error:
            raise Unreachable(f"{what}: no answer within {timeout_seconds} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{what}: {self._cause(error)}") from error

    async def watch(self, path: str, resource_version: str, *, query: Query = ()) -> AsyncIterator[WatchEvent]:
        """See KubeClient."""
        what = f"WATCH {path}"
        parameters = [("watch", "1"), ("allowWatchBookmarks", "true"), ("resourceVersion", resource_version), *query]
        try:
            async with self._session.get(
                self._url(path, parameters), headers=await self._headers(JSON), timeout=_WATCH_TIMEOUT
            ) as response:
                if response.status >= 400:
                    raise error_for(
                        response.status, await response.read(), what=what, retry_after_seconds=_retry_after(response)
                    )
                async for line in _lines(response.content):
                    yield _event(line, what)
        except TimeoutError as error:
            raise Unreachable(f"{what}: silent for too long") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{what}: {self._cause(error)}") from error

    def _cause(self, error: Exception) -> str:
        """What went wrong on the way, in words."""
        if isinstance(error, aiohttp.ClientConnectorError) and (number := error.os_error.errno) and number > 0:
            return f"the API server {self._host} cannot be reached: {os.strerror(number)}"
        if isinstance(error, aiohttp.ClientConnectorDNSError) and error.os_error.strerror:
            return f"the API server {self._host} cannot be reached: {error.os_error.strerror}"
        return str(error) or type(error).__name__

    async def close(self) -> None:
        """See KubeClient."""
        await self._session.close()


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Complete lines of any length up to the limit (aiohttp's own line reader gives up at its buffer size)."""
    rest = b""
    async for chunk in content.iter_any():
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            if line:
                yield line
        if len(rest) > _LONGEST_LINE:
            raise aiohttp.ClientPayloadError("watch event too long")


def _event(line: bytes, what: str) -> WatchEvent:
    try:
        event = _EVENT.decode(line)
    except msgspec.MsgspecError as error:
        raise Unreachable(f"{what}: broken event: {error}") from error
    if event.type != "ERROR":
        return event
    # An expired version arrives as HTTP 200 with an ERROR line whose object is a Status of code 410.
    body = bytes(event.object)
    code = 500
    with contextlib.suppress(msgspec.MsgspecError, TypeError, ValueError):
        code = int(_STATUS_CODE.decode(body).get("code", 500))
    raise error_for(code, body, what=what)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def _tls(configuration: Any) -> ssl.SSLContext | bool:
    if not str(configuration.host).startswith("https"):
        return False
    try:
        tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
        if configuration.cert_file:
            tls.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    except (OSError, ssl.SSLError) as error:
        raise KubeConfigError(f"certificates of the Kubernetes configuration cannot be read: {error}") from error
    if not configuration.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return tls


__all__ = ["AioKubeClient", "KubeError", "connect"]

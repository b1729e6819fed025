"""What a Prometheus is told besides the query: credentials, headers, certificates. None of it is ever shown."""

import base64
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from yarl import URL

from headroom.prometheus import promql
from headroom.prometheus.errors import PrometheusError
from headroom.prometheus.settings import PrometheusSettings

_HIDDEN: Final = "***"


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address, taken apart."""

    url: URL
    """Without user and password, without a final slash; a query part is sent with every call."""
    shown: str
    """Scheme, host, port and path: what may stand in a status or a log."""
    authorization: str = ""
    """Header made of the user and password that stood in the address."""

    @classmethod
    def of(cls, text: str) -> "Address":
        """Raises PrometheusError."""
        try:
            url = URL(text)
            host, _ = url.host, url.port
        except ValueError:
            host = None
        if not host or url.scheme not in ("http", "https"):
            shown = text if "@" not in text else "the text"
            raise PrometheusError(f"{shown!r} is not the address of a Prometheus, such as http://prometheus:9090")
        authorization = ""
        if url.user is not None or url.password is not None:
            pair = f"{url.user or ''}:{url.password or ''}"
            authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
        bare = url.with_user(None).with_fragment(None).with_path(url.path.rstrip("/"), keep_query=True)
        return cls(bare, str(bare.with_query(None)).rstrip("/"), authorization)


@dataclass(slots=True)
class Access:
    """How to get in. `headers` and `context` read their files again when those have changed."""

    bearer_token_file: str = ""
    ca_file: str = ""
    client_cert_file: str = ""
    client_key_file: str = ""
    fixed_headers: Mapping[str, str] = field(default_factory=dict)
    headers_file: str = ""
    matchers: tuple[str, ...] = ()
    """Label matchers added to every query, in PromQL's spelling."""
    _read: dict[str, tuple[tuple[int, int], str]] = field(default_factory=dict)
    _context: tuple[tuple[tuple[int, int], ...], ssl.SSLContext | None] | None = None

    @classmethod
    def of(cls, settings: PrometheusSettings) -> Self:
        """Raises PrometheusError for settings or files that cannot be used."""
        access = cls(
            bearer_token_file=settings.prometheus_bearer_token_file,
            ca_file=settings.prometheus_ca_file,
            client_cert_file=settings.prometheus_client_cert_file,
            client_key_file=settings.prometheus_client_key_file,
            fixed_headers=_headers(settings.prometheus_headers, "=", "prometheus_headers"),
            headers_file=settings.prometheus_headers_file,
            matchers=_matchers(settings.prometheus_matchers),
        )
        if access.client_key_file and not access.client_cert_file:
            raise PrometheusError("prometheus_client_key_file needs prometheus_client_cert_file")
        access.headers()
        access.context()
        return access

    @property
    def secret(self) -> bool:
        """Whether anything is sent that must not reach another server."""
        return bool(self.bearer_token_file or self.fixed_headers or self.headers_file or self.client_cert_file)

    def headers(self) -> dict[str, str]:
        """Headers of a call. Raises PrometheusError when a file cannot be read."""
        headers = dict(self.fixed_headers)
        if self.headers_file:
            lines = self._content(self.headers_file, "prometheus_headers_file").splitlines()
            lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
            headers |= _headers(lines, ":", f"prometheus_headers_file {self.headers_file}")
        if self.bearer_token_file:
            token = self._content(self.bearer_token_file, "prometheus_bearer_token_file").strip()
            if not token or any(character.isspace() for character in token):
                raise PrometheusError(f"prometheus_bearer_token_file {self.bearer_token_file} holds no single token")
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def context(self) -> ssl.SSLContext | None:
        """What TLS is checked against and shown; None for the usual. The same object while the files stay as they are."""
        files = [path for path in (self.ca_file, self.client_cert_file, self.client_key_file) if path]
        if not files:
            return None
        try:
            stamps = tuple(_stamp(path) for path in files)
            if self._context is None or self._context[0] != stamps:
                self._context = stamps, self._new_context()
        except (OSError, ssl.SSLError) as error:
            raise PrometheusError(f"{' or '.join(files)} cannot be used for TLS: {_words(error)}") from error
        return self._context[1]

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file or None)
        if self.client_cert_file:
            context.load_cert_chain(self.client_cert_file, self.client_key_file or None)
        return context

    def _content(self, path: str, name: str) -> str:
        try:
            stamp = _stamp(path)
            if path not in self._read or self._read[path][0] != stamp:
                self._read[path] = stamp, Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PrometheusError(f"{name} {path} cannot be read: {_words(error)}") from error
        return self._read[path][1]


def hidden(text: str, headers: Iterable[str]) -> str:
    """The text without the values of these headers, and without the tokens in them: a server may repeat what it was sent."""
    for value in headers:
        for secret in {value, value.split(" ", 1)[-1]}:
            if len(secret) > 3:
                text = text.replace(secret, _HIDDEN)
    return text


def _headers(lines: Iterable[str], separator: str, place: str) -> dict[str, str]:
    headers = {}
    for number, line in enumerate(lines, 1):
        name, found, value = line.partition(separator)
        name, value = name.strip(), value.strip()
        if not found or not name or not name.replace("-", "").replace("_", "").isalnum() or "\n" in value:
            raise PrometheusError(f"{place}: entry {number} is not NAME{separator}VALUE")  # its text may be a secret
        headers[name] = value
    return headers


def _matchers(texts: Iterable[str]) -> tuple[str, ...]:
    try:
        return tuple(promql.matcher(text) for text in texts)
    except promql.PromqlError as error:
        raise PrometheusError(f"prometheus_matchers: {error}") from error


def _stamp(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_mtime_ns, status.st_ino


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)

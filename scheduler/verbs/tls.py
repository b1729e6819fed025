"""The verbs over TLS, for an extender that shares its network with other programs: the address proves nothing there.

kube-scheduler shows a client certificate (`tlsConfig` of its extender entry); only certificates of one authority are taken.
"""

import asyncio
import os
import ssl
from collections.abc import Collection
from typing import Any, Final

from headroom.daemon.logs import get_logger
from headroom.daemon.settings import SettingsError
from headroom.errors import HeadroomError
from scheduler.settings import SchedulerSettings

_LOOK_SECONDS: Final = 60.0

log = get_logger(__name__)


def uses_tls(settings: SchedulerSettings) -> bool:
    """Whether the verbs are answered over TLS. Raises SettingsError where only some of the three files are named."""
    files = {
        "tls_cert_file": settings.tls_cert_file,
        "tls_key_file": settings.tls_key_file,
        "tls_client_ca_file": settings.tls_client_ca_file,
    }
    missing = [name for name, path in files.items() if not path]
    if missing and len(missing) < len(files):
        raise SettingsError([f"{name}: is missing; the three TLS files go together" for name in missing])
    return not missing


class ServerCertificate:
    """A server's side of TLS; files that were replaced are taken up within a minute."""

    def __init__(self, settings: SchedulerSettings) -> None:
        """Raises HeadroomError for files that cannot be used."""
        self._settings = settings
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.verify_mode = ssl.CERT_REQUIRED
        self._versions = self._seen()
        try:
            self._load()
        except (OSError, ssl.SSLError) as error:
            raise HeadroomError(f"the TLS files cannot be used: {error}") from error

    def _load(self) -> None:
        self.context.load_cert_chain(self._settings.tls_cert_file, self._settings.tls_key_file)
        self.context.load_verify_locations(self._settings.tls_client_ca_file)

    def _seen(self) -> list[float | None]:
        settings = self._settings
        return [
            _changed_at(path) for path in (settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
        ]

    def refresh(self) -> None:
        """Take up files that were replaced; ones that cannot be used are reported, and the old ones stay."""
        seen = self._seen()
        if seen == self._versions:
            return
        try:
            self._load()
        except (OSError, ssl.SSLError) as error:
            log.warning("tls_files_not_usable", error=str(error))
            return
        self._versions = seen
        log.info("tls_files_taken_up")

    async def run(self) -> None:
        """Look at the files until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.refresh()


def _changed_at(path: str) -> float | None:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


def may_call(transport: asyncio.BaseTransport | None, names: Collection[str]) -> bool:
    """Whether the caller's certificate, which the handshake has checked, has one of the common names (any where none are given)."""
    certificate: Any = transport.get_extra_info("peercert") if transport is not None else None
    if not certificate:
        return False
    common = {value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"}
    return not names or bool(common & set(names))

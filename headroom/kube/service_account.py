"""Access to the API server with the pod's own service account.

Read without the `kubernetes` package, whose import alone costs 18 MiB: in a cluster no daemon of ours needs more of it.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from headroom.kube.client import KubeConfigError

FOLDER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_SECONDS: Final = 60.0
"""How long a token is used before its file is read again; kubelet renews the file long before the token ends."""


class ServiceAccount:
    """Host, certificate authority and token, under the names that `kubernetes`' Configuration gives them."""

    cert_file: str | None = None
    key_file: str | None = None
    ca_cert_data: str | None = None
    verify_ssl = True

    def __init__(
        self, env: Mapping[str, str], *, folder: Path = FOLDER, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises KubeConfigError when the pod has no service account mounted."""
        host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "")
        if not host or not port:
            raise KubeConfigError("not in a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not both set")
        self.host = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self.ssl_ca_cert = str(folder / "ca.crt")
        self._token_file, self._monotonic = folder / "token", monotonic
        self._token, self._read_at = self._read(), monotonic()
        if not (folder / "ca.crt").is_file():
            raise KubeConfigError(f"{self.ssl_ca_cert}: no certificate authority for the API server")

    async def get_api_key_with_prefix(self, _: str) -> str:
        """The value of the Authorization header. A token file that cannot be read now leaves the last token in use."""
        if self._monotonic() - self._read_at >= _TOKEN_SECONDS:
            self._read_at = self._monotonic()
            try:
                self._token = self._read()
            except KubeConfigError:
                return f"Bearer {self._token}"
        return f"Bearer {self._token}"

    def _read(self) -> str:
        try:
            token = self._token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise KubeConfigError(f"{self._token_file}: no service account token: {error}") from error
        if not token:
            raise KubeConfigError(f"{self._token_file}: is empty")
        return token

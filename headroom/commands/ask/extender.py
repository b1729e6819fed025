"""Finds the extender that decides and asks it through the API server's proxy: no port-forward, and never a standby."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headroom import wire
from headroom.errors import HeadroomError
from headroom.kube.client import KubeClient, KubeError, NotFound

LEASE: Final = "headroom-extender"
PORT: Final = "8901"
_SELECTOR: Final = "app.kubernetes.io/name=headroom,app.kubernetes.io/component=scheduler"


class AskError(HeadroomError):
    """The extender cannot be asked, or did not understand; the text says what to do."""


class _LeaseSpec(wire.Wire):
    holder_identity: str = ""


class _Lease(wire.Wire):
    spec: _LeaseSpec = msgspec.field(default_factory=_LeaseSpec)


_LEASE: Final = wire.Decoder(_Lease)


@dataclass(frozen=True, slots=True)
class Extender:
    """One extender's pod, reached through the API server."""

    kube: KubeClient
    namespace: str
    pod: str
    port: str = PORT

    async def get(self, path: str, query: list[tuple[str, str]]) -> dict[str, Any]:
        """GET a page. Raises AskError."""
        return await self._ask("GET", path, query=query)

    async def post(self, path: str, body: Any) -> dict[str, Any]:
        """POST a question. Raises AskError."""
        return await self._ask("POST", path, body=body)

    async def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        where = f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}:{self.port}/proxy{path}"
        try:
            raw = await self.kube.request(method, where, timeout_seconds=30, **more)
        except KubeError as error:
            raise AskError(f"{self.namespace}/{self.pod}: {_words_of(error)}") from error
        answer = msgspec.json.decode(raw)
        if not isinstance(answer, dict):
            raise AskError(f"{self.namespace}/{self.pod}: {path} answered with {type(answer).__name__}, not an object")
        return answer


def _words_of(error: KubeError) -> str:
    """The extender's own words where the API server passed them on."""
    text = str(error)
    start = text.find('{"Error"')
    if start >= 0:
        try:
            return str(msgspec.json.decode(text[start:].encode())["Error"])
        except (msgspec.MsgspecError, KeyError, TypeError):
            return text
    return text


async def deciding_extender(kube: KubeClient, namespace: str) -> Extender:
    """The extender that holds the lease; where there is no lease, the one that runs. Raises AskError."""
    try:
        lease = _LEASE.decode(
            await kube.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE}")
        )
    except NotFound:
        return await _only_one(kube, namespace)
    except KubeError as error:
        raise AskError(f"lease {namespace}/{LEASE} cannot be read: {error}") from error
    holder = lease.spec.holder_identity.rsplit("_", 2)
    if len(holder) != 3:
        raise AskError(
            f"lease {namespace}/{LEASE} is held by nobody: no extender decides now; is a kube-scheduler with Headroom's"
            " configuration running beside it?"
        )
    return Extender(kube, namespace, holder[0], holder[1])


async def _only_one(kube: KubeClient, namespace: str) -> Extender:
    try:
        pods = wire.POD_LIST.decode(
            await kube.request("GET", f"/api/v1/namespaces/{namespace}/pods", query=[("labelSelector", _SELECTOR)])
        )
    except KubeError as error:
        raise AskError(f"pods of {namespace} cannot be listed: {error}") from error
    running = [pod.metadata.name for pod in pods.items if pod.status.phase == "Running"]
    if not running:
        raise AskError(
            f"no extender runs in namespace {namespace}: is Headroom installed there? (--system-namespace names another)"
        )
    if len(running) > 1:
        raise AskError(
            f"{len(running)} extenders run in {namespace} without a lease {LEASE}: which one decides cannot be told"
        )
    return Extender(kube, namespace, running[0])

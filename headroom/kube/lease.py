"""Leader election by a Lease (coordination.k8s.io/v1): one writer at a time.

`observe` and `may_take` are pure; `Elector` does the calls. As in client-go, expiry is judged by how long *this* process has
seen the record unchanged, never by comparing clocks of two machines.
"""

import asyncio
import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from headroom.kube.calls import micro_time
from headroom.kube.client import Conflict, KubeClient, KubeError, NotFound
from headroom.logs import get_logger


@dataclass(frozen=True, slots=True)
class Seen:
    """A lease record as last seen, and when (monotonic seconds) it last changed."""

    holder: str = ""
    version: str = ""
    duration_seconds: float = 15.0
    changed_at: float = 0.0


def observe(seen: Seen, holder: str, version: str, duration_seconds: float, now: float) -> Seen:
    """Fold one reading of the lease into what is known."""
    changed_at = seen.changed_at if version == seen.version else now
    return Seen(holder, version, duration_seconds, changed_at)


def may_take(seen: Seen, identity: str, now: float) -> bool:
    """Whether `identity` may write the lease: it holds it, nobody does, or the holder was silent for the lease's duration."""
    return seen.holder in ("", identity) or now - seen.changed_at >= seen.duration_seconds


def wall_clock() -> datetime.datetime:
    """Now, in UTC."""
    return datetime.datetime.now(datetime.UTC)


class Elector:
    """Takes and renews a lease; `is_leader` is true only while the last renewal is younger than the deadline."""

    def __init__(
        self,
        kube: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        duration_seconds: float = 10.0,
        renew_seconds: float = 2.0,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], datetime.datetime] = wall_clock,
    ) -> None:
        self._kube, self.identity = kube, identity
        self._base = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name, self._namespace = name, namespace
        self._duration_seconds, self._renew_seconds = duration_seconds, renew_seconds
        self._monotonic, self._clock = monotonic, clock
        self._seen = Seen()
        self._renewed_at: float | None = None
        self._log = get_logger(__name__).bind(lease=f"{namespace}/{name}", identity=identity)

    @property
    def is_leader(self) -> bool:
        """Whether this process may write. Turns false by itself two thirds into a duration without renewal, before others may take over."""
        return self._renewed_at is not None and self._monotonic() - self._renewed_at < self._duration_seconds * 2 / 3

    @property
    def holder(self) -> str:
        """Who held the lease when last seen."""
        return self._seen.holder

    async def run(self) -> None:
        """Try to take or renew the lease for ever; call `release` on the way out."""
        while True:
            was = self.is_leader
            try:
                await self.attempt()
            except KubeError as error:
                self._log.warning("lease_failed", error=str(error))
            if was != self.is_leader:
                self._log.info("leadership_changed", leader=self.is_leader, holder=self._seen.holder)
            await asyncio.sleep(self._renew_seconds)

    async def attempt(self) -> bool:
        """One try. Returns whether this process is the leader now. Raises KubeError other than Conflict and NotFound."""
        started = self._monotonic()
        try:
            lease = msgspec.json.decode(
                await self._kube.request("GET", f"{self._base}/{self._name}", timeout_seconds=self._renew_seconds + 3)
            )
        except NotFound:
            return await self._write("POST", self._base, None, started)
        spec = lease.get("spec") or {}
        self._seen = observe(
            self._seen,
            spec.get("holderIdentity") or "",
            lease["metadata"].get("resourceVersion", ""),
            float(spec.get("leaseDurationSeconds") or self._duration_seconds),
            started,
        )
        if not may_take(self._seen, self.identity, started):
            self._renewed_at = None
            return False
        return await self._write("PUT", f"{self._base}/{self._name}", lease, started)

    async def _write(self, method: str, path: str, old: dict[str, Any] | None, started: float) -> bool:
        now = micro_time(self._clock())
        old_spec = (old or {}).get("spec") or {}
        mine = old_spec.get("holderIdentity") == self.identity
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": (old or {}).get("metadata") or {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": round(self._duration_seconds),
                "acquireTime": old_spec.get("acquireTime", now) if mine else now,
                "renewTime": now,
                "leaseTransitions": int(old_spec.get("leaseTransitions") or 0) + (0 if mine or old is None else 1),
            },
        }
        try:
            answer = await self._kube.request(method, path, body=lease, timeout_seconds=self._renew_seconds + 3)
        except Conflict:
            self._renewed_at = None
            return False
        written = msgspec.json.decode(answer)
        self._seen = Seen(
            self.identity, written["metadata"].get("resourceVersion", ""), self._duration_seconds, started
        )
        self._renewed_at = started
        return True

    async def release(self) -> None:
        """Give the lease up, so that a successor need not wait; a failure is logged only."""
        if not self.is_leader:
            return
        self._renewed_at = None
        try:
            lease = msgspec.json.decode(
                await self._kube.request("GET", f"{self._base}/{self._name}", timeout_seconds=3)
            )
            if (lease.get("spec") or {}).get("holderIdentity") != self.identity:
                return
            lease["spec"]["holderIdentity"] = ""
            await self._kube.request("PUT", f"{self._base}/{self._name}", body=lease, timeout_seconds=3)
        except KubeError as error:
            self._log.info("lease_not_released", error=str(error))

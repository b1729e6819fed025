"""Leader election by a Lease (coordination.k8s.io/v1): one writer at a time.

`observe` and `may_take` are pure; `Elector` does the calls. As in client-go, expiry is judged by how long *this* process has
seen the record unchanged, never by comparing clocks of two machines.

A process that should lead although another does (its callers ask it, not the other) says so in an annotation of the lease;
the holder reads that whenever it renews, and hands the lease over if it can do without.
"""

import asyncio
import contextlib
import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headroom.daemon.logs import get_logger
from headroom.kube.calls import micro_time
from headroom.kube.client import Conflict, KubeClient, KubeError, NotFound
from headroom.names import ANNOTATION_CHALLENGER

_HURRY_SECONDS: Final = 0.2  # between two looks at the lease while leadership is wanted
_RELEASE_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """A lease record (its `spec`, encoded) as last seen, and when (monotonic seconds) it last changed."""

    holder: str = ""
    record: bytes = b""
    duration_seconds: float = 15.0
    changed_at: float = 0.0


def observe(seen: Seen, holder: str, record: bytes, duration_seconds: float, now: float) -> Seen:
    """Fold one reading of the lease into what is known."""
    changed_at = seen.changed_at if record == seen.record else now
    return Seen(holder, record, duration_seconds, changed_at)


def may_take(seen: Seen, identity: str, now: float, seat: str = "") -> bool:
    """Whether `identity` may write the lease: it holds it, nobody does, or the holder was silent for the lease's duration.

    A holder whose identity begins with `seat` is an earlier process in the same place, which cannot be alive any more.
    """
    if seen.holder in ("", identity) or (seat and seen.holder.startswith(seat)):
        return True
    return now - seen.changed_at >= seen.duration_seconds


def wall_clock() -> datetime.datetime:
    """Now, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def _never() -> bool:
    return False


class Elector:
    """Takes and renews a lease; `is_leader` is true only while the last renewal is younger than the deadline.

    `wants()` tells whether this process should lead although another does, `yields()` whether it can do without when another
    says so. `seat` names the place that only one process at a time can take, as the beginning of its identity (see
    `may_take`). `on_look()` follows every look at the lease, successful or not.
    """

    def __init__(
        self,
        kube: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        seat: str = "",
        duration_seconds: float = 10.0,
        renew_seconds: float = 2.0,
        wants: Callable[[], bool] = _never,
        yields: Callable[[], bool] = _never,
        on_look: Callable[[], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], datetime.datetime] = wall_clock,
    ) -> None:
        self._kube, self.identity, self._seat = kube, identity, seat
        self._base = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name, self._namespace = name, namespace
        self._duration_seconds, self._renew_seconds = duration_seconds, renew_seconds
        self._wants, self._yields, self._on_look = wants, yields, on_look
        self._monotonic, self._clock = monotonic, clock
        self._seen = Seen()
        self._renewed_at: float | None = None
        self._hurry = asyncio.Event()
        self._challenged = ""
        self.problem = ""
        """Why the last look at the lease failed; empty when it did not."""
        self.holds = False
        """Whether this process holds the lease as far as it knows; it leads only while it also renews in time."""
        self.terms = 0
        """How often this process has taken the lease from somebody else, or from nobody."""
        self.transitions = 0
        """How often the lease had changed hands when this process wrote it last."""
        self._acquired = ""
        self._log = get_logger(__name__).bind(lease=f"{namespace}/{name}", identity=identity)

    @property
    def is_leader(self) -> bool:
        """Whether this process may write. Turns false by itself two thirds into a duration without renewal, before others may take over."""
        return self._renewed_at is not None and self._monotonic() - self._renewed_at < self._duration_seconds * 2 / 3

    @property
    def holder(self) -> str:
        """Who held the lease when last seen."""
        return self._seen.holder

    def hurry(self) -> None:
        """Look at the lease now rather than at the next turn."""
        self._hurry.set()

    async def run(self) -> None:
        """Try to take or renew the lease for ever; call `release` on the way out."""
        while True:
            was = self.is_leader
            try:
                await self.attempt()
                self.problem = ""
            except KubeError as error:
                self.problem = str(error)
                self._log.warning("lease_failed", error=str(error))
            if was != self.is_leader:
                self._log.info("leadership_changed", leader=self.is_leader, holder=self._seen.holder)
            if self._on_look is not None:
                self._on_look()
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(_HURRY_SECONDS)
        if self._wants() and not self.is_leader:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(self._renew_seconds - _HURRY_SECONDS, 0)):
                await self._hurry.wait()
        self._hurry.clear()

    async def attempt(self) -> bool:
        """One try. Returns whether this process is the leader now. Raises KubeError other than Conflict and NotFound."""
        started = self._monotonic()
        try:
            lease = await self._read()
        except NotFound:
            self._lost()
            return await self._write("POST", self._base, None, started)
        spec = lease["spec"]
        self._seen = observe(
            self._seen,
            str(spec.get("holderIdentity") or ""),
            msgspec.json.encode(spec),
            _seconds(spec.get("leaseDurationSeconds"), self._duration_seconds),
            started,
        )
        challenger = str((lease["metadata"].get("annotations") or {}).get(ANNOTATION_CHALLENGER, ""))
        if self.holds and not self._is_ours(spec):
            self._lost()  # somebody reigned in between, whoever holds it now
        if not may_take(self._seen, self.identity, started, self._seat):
            self._lost()
            if challenger != self.identity and self._wants():
                await self._challenge(lease)
            return False
        if self._seen.holder == self.identity and challenger not in ("", self.identity) and self._yields():
            self._lost()
            await self._give(lease, challenger)
            return False
        return await self._write("PUT", f"{self._base}/{self._name}", lease, started)

    def _is_ours(self, spec: dict[str, Any]) -> bool:
        """Whether the record is one of the term that this process takes itself to be in."""
        return (spec.get("holderIdentity"), spec.get("acquireTime"), int(spec.get("leaseTransitions") or 0)) == (
            self.identity, self._acquired, self.transitions,
        )  # fmt: skip

    def _lost(self) -> None:
        self._renewed_at, self.holds = None, False

    async def _read(self) -> dict[str, Any]:
        """The lease, with `metadata` and `spec`. Raises KubeError."""
        path = f"{self._base}/{self._name}"
        raw = await self._kube.request("GET", path, timeout_seconds=self._renew_seconds + 3)
        return _as_lease(raw, path)

    async def _challenge(self, lease: dict[str, Any]) -> None:
        """Tell the holder that this process should lead instead; the record itself stays as it is.

        The holder wipes the note at each renewal, so that none outlives the wish.
        """
        meta = lease["metadata"]
        meta["annotations"] = (meta.get("annotations") or {}) | {ANNOTATION_CHALLENGER: self.identity}
        if self._challenged != self._seen.holder:
            self._challenged = self._seen.holder
            self._log.info("lease_challenged", holder=self._seen.holder)
        with contextlib.suppress(Conflict):  # the holder was renewing; the next look tries again
            await self._put(lease)

    async def _put(self, lease: dict[str, Any]) -> bytes:
        return await self._kube.request(
            "PUT", f"{self._base}/{self._name}", body=lease, timeout_seconds=self._renew_seconds + 3
        )

    async def _give(self, lease: dict[str, Any], successor: str) -> None:
        """Write the lease over to `successor`, or to nobody."""
        meta = lease["metadata"]
        meta["annotations"] = _without_challenger(meta)
        lease["spec"]["holderIdentity"] = successor
        lease["spec"]["renewTime"] = micro_time(self._clock())
        self._log.info("lease_given_up", successor=successor)
        await self._put(lease)

    async def _write(self, method: str, path: str, old: dict[str, Any] | None, started: float) -> bool:
        now = micro_time(self._clock())
        old_spec = (old or {}).get("spec") or {}
        mine = old_spec.get("holderIdentity") == self.identity
        meta = (old or {}).get("metadata") or {"name": self._name, "namespace": self._namespace}
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": meta | {"annotations": _without_challenger(meta)},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": max(round(self._duration_seconds), 1),
                "acquireTime": old_spec.get("acquireTime", now) if mine else now,
                "renewTime": now,
                "leaseTransitions": int(old_spec.get("leaseTransitions") or 0) + (0 if mine or old is None else 1),
            },
        }
        try:
            answer = await self._kube.request(method, path, body=lease, timeout_seconds=self._renew_seconds + 3)
        except Conflict:
            # A holder that lost the race against a challenger's note holds on: nobody else could have taken the lease
            # before its duration is over, and `is_leader` ends before that.
            return self.is_leader
        written = _as_lease(answer, path)["spec"]
        self._seen = Seen(self.identity, msgspec.json.encode(written), self._duration_seconds, started)
        self._acquired, self.transitions = str(written.get("acquireTime")), int(written.get("leaseTransitions") or 0)
        self._renewed_at = started
        self._challenged = ""
        if not self.holds:
            self.holds = True
            self.terms += 1
        return True

    async def release(self) -> None:
        """Give the lease up, so that a successor need not wait; a failure is logged only."""
        if not self.is_leader:
            return
        self._lost()
        for _ in range(_RELEASE_TRIES):
            try:
                lease = await self._read()
                if lease["spec"].get("holderIdentity") == self.identity:
                    await self._give(lease, "")
            except Conflict:
                continue  # a challenger's note came between
            except KubeError as error:
                self._log.info("lease_not_released", error=str(error))
            return


def _as_lease(raw: bytes, path: str) -> dict[str, Any]:
    try:
        lease: dict[str, Any] = msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise KubeError(f"{path}: broken lease: {error}") from error
    for part in ("metadata", "spec"):
        if not isinstance(lease.get(part), dict):
            lease[part] = {}
    return lease


def _seconds(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else default


def _without_challenger(meta: dict[str, Any]) -> dict[str, str]:
    annotations = meta.get("annotations") or {}
    return {key: value for key, value in annotations.items() if key != ANNOTATION_CHALLENGER}

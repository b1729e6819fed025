"""Asks the scheduler how many more of a pod the cluster can hold. No answer does not mean zero."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import msgspec

from autoscaler.law.inputs import Capacity
from headroom import names
from headroom.daemon.logs import get_logger

log = get_logger(__name__)


class _Fit(msgspec.Struct):
    fits: int
    reasons: dict[str, int] = {}


_FIT: Final = msgspec.json.Decoder(_Fit)


_AT_ONCE: Final = 8
"""Questions under way: hundreds at once would each wait for all the others, beyond their time."""
_ONE_REPLICA: Final = "headroom-one-replica-more"
"""No group is called so."""
_TOO_SLOW: Final = "the scheduler does not answer in time"


class FitClient:
    """`/v1/fit` of the scheduler's extender. One that was too slow is not asked again for as long as it was given."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._url, self._timeout_seconds = f"{url.rstrip('/')}/v1/fit", timeout_seconds
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._silent_until = float("-inf")
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_seconds))

    async def ask(
        self, template: bytes, namespace: str, limit: int, pods_per_replica: int = 1
    ) -> tuple[Capacity | None, str]:
        """(answer, complaint): how many more replicas fit, up to `limit`; None and why where it is not known."""
        pod = msgspec.json.decode(template)
        meta = pod["metadata"] = (pod.get("metadata") or {}) | {"namespace": namespace}
        annotations = meta.get("annotations") or {}
        if pods_per_replica > 1 and annotations.get(names.GROUP_TOPOLOGY):
            # The template does not say yet that its pods are a group: those of one replica must be near each other.
            meta["annotations"] = {
                **annotations, names.GROUP: _ONE_REPLICA, names.GROUP_SIZE: str(pods_per_replica),
            }  # fmt: skip
        # The law takes replicas that wait for a node off the answer itself.
        question = {"pod": pod, "limit": limit * pods_per_replica, "ownWaiting": True}
        async with self._slots:
            fit = await self._answer(question)
        if isinstance(fit, str):
            return None, fit
        top = sorted(fit.reasons.items(), key=lambda item: (-item[1], item[0]))[:2]
        detail = "; ".join(f"{reason} on {nodes} nodes" for reason, nodes in top)
        fits = fit.fits // pods_per_replica
        return Capacity(fits, detail if fits < limit else ""), ""

    async def _answer(self, question: Mapping[str, Any]) -> _Fit | str:
        clock = asyncio.get_running_loop().time
        if clock() < self._silent_until:
            return _TOO_SLOW
        try:
            async with self._session.post(self._url, json=question) as response:
                body = await response.read()
                if response.status >= 400:
                    return f"the scheduler answers {response.status}: {body[:200].decode(errors='replace')}"
                return _FIT.decode(body)
        except TimeoutError:
            self._silent_until = clock() + self._timeout_seconds
            return _TOO_SLOW
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError) as error:
            return f"the scheduler cannot be asked: {error}"

    async def close(self) -> None:
        """Release the connections."""
        await self._session.close()

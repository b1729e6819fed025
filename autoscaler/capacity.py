"""Asks the scheduler how many more of a pod the cluster can hold. An answer that cannot be had is not a zero."""

from typing import Final

import aiohttp
import msgspec

from autoscaler.signals import Capacity
from headroom.logs import get_logger

log = get_logger(__name__)


class _Fit(msgspec.Struct):
    fits: int
    reasons: dict[str, int] = {}


_FIT: Final = msgspec.json.Decoder(_Fit)


class FitClient:
    """`/v1/fit` of the scheduler's extender."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._url = f"{url.rstrip('/')}/v1/fit"
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_seconds))

    async def ask(
        self, template: bytes, namespace: str, limit: int, pods_per_replica: int = 1
    ) -> tuple[Capacity | None, str]:
        """(answer, complaint): how many more replicas fit, up to `limit`; None and why where it is not known."""
        pod = msgspec.json.decode(template)
        pod["metadata"] = (pod.get("metadata") or {}) | {"namespace": namespace}
        try:
            question = {"pod": pod, "limit": limit * pods_per_replica}
            async with self._session.post(self._url, json=question) as response:
                body = await response.read()
                if response.status >= 400:
                    return None, f"the scheduler answers {response.status}: {body[:200].decode(errors='replace')}"
                fit = _FIT.decode(body)
        except TimeoutError:
            return None, "the scheduler does not answer in time"
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError) as error:
            return None, f"the scheduler cannot be asked: {error}"
        top = sorted(fit.reasons.items(), key=lambda item: (-item[1], item[0]))[:2]
        detail = "; ".join(f"{reason} on {nodes} nodes" for reason, nodes in top)
        fits = fit.fits // pods_per_replica
        return Capacity(fits, detail if fits < limit else ""), ""

    async def close(self) -> None:
        """Release the connections."""
        await self._session.close()

"""Prefill and decode of one model on replicas of their own, as vLLM runs them with a KV connector.

A request goes to a prefill replica as a request for one token. When that has computed the prompt, its keys and values are sent to a
decode replica, one prompt after another over the link of the replica that has them. The decode replica computes the last token of the
prompt again, so that the first token which a user gets is its own: the time to it holds prefill, transfer and the wait for a place in the
decode batch. A request whose memory is taken from it there is computed again there, prompt and all.

Not modelled: the memory that a prompt takes on its prefill replica until it is fetched (milliseconds), and a transfer that fails.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from headroom.domain.model import Placement
from simulations.serving.engine.hardware import Pair
from simulations.serving.engine.replica import Prefill, Replica
from simulations.serving.engine.request import Request
from simulations.serving.fleet.deployment import Cards, Deployment
from simulations.serving.fleet.pods import Pod
from simulations.serving.fleet.served import Served
from simulations.virtual_time import Engine


@dataclass(frozen=True, slots=True)
class Link:
    """How keys and values get from a prefill replica to a decode replica."""

    bytes_per_token: float
    bytes_per_second: float
    """Of each prefill replica."""
    setup_seconds: float = 0.002
    """Of a transfer, whatever its length."""

    def seconds(self, tokens: int) -> float:
        """That the tokens of a prompt take."""
        return self.setup_seconds + tokens * self.bytes_per_token / self.bytes_per_second


class FetchingReplica(Replica):
    """A decode replica: of a prompt that was computed elsewhere only the last token is left to do."""

    __slots__ = ()

    def _admit(self, now: float) -> Prefill:
        request = self.waiting.popleft()
        need = request.prompt_tokens + request.generated
        have = 0 if request.generated else request.prompt_tokens - 1
        if math.isnan(request.scheduled):
            request.scheduled = now
            request.cached_tokens = have
        self.taken += need
        self._order += 1
        entry = Prefill(request, need - have, have, self._order)
        self.prefilling.append(entry)
        return entry


class DecodeDeployment(Deployment):
    """Decode replicas. Requests come with their prompts computed."""

    def _create(self, now: float) -> Pod:
        pod = super()._create(now)
        pod.replica = FetchingReplica(pod.replica.speed, pod.replica.histograms)
        return pod

    def fetch(self, request: Request) -> None:
        """Take a request whose prompt has come over."""
        request.sent = self.engine.now
        self.arrive(request)


class PrefillDeployment(Deployment):
    """Prefill replicas. `hand_over` gets each request for one token that has ended, and the replica that has computed its prompt."""

    hand_over: Callable[[Pod, Request], None]

    def _advance(self, pod: Pod) -> None:
        assert isinstance(self.served, _Handing)
        self.served.computed = []
        super()._advance(pod)
        for half in self.served.computed:
            self.hand_over(pod, half)


class _Handing(Served):
    """What became of prompts, and those that were computed just now."""

    __slots__ = ("computed",)

    def __init__(self) -> None:
        super().__init__()
        self.computed: list[Request] = []

    def ended(self, requests: list[Request]) -> None:
        """Requests got their only token here."""
        super().ended(requests)
        self.computed = list(requests)


@dataclass(slots=True)
class Disaggregated:
    """One model with both roles. `served` holds what its users get."""

    engine: Engine
    pair: Pair
    link: Link
    prefill: PrefillDeployment
    decode: DecodeDeployment
    served: Served
    transferred_bytes: float = 0.0
    transfer_seconds: float = 0.0
    """Sum over the requests, waiting for the link included."""
    _whole: dict[int, Request] = field(default_factory=dict)
    """By identity of the request for one token: the one that the user made."""
    _free_at: dict[int, float] = field(default_factory=dict)
    """By order of the prefill replica's start: when its link is free."""

    @property
    def roles(self) -> tuple[Deployment, Deployment]:
        """Prefill, decode."""
        return self.prefill, self.decode

    def feed(self, requests: Iterable[Request]) -> None:
        """Let requests, ordered by arrival, arrive."""
        self.prefill.feed(self._halves(requests))

    def _halves(self, requests: Iterable[Request]) -> Iterable[Request]:
        for request in requests:
            half = Request(request.arrival, request.prompt_tokens, 1)
            self._whole[id(half)] = request
            yield half

    def hand_over(self, pod: Pod, half: Request) -> None:
        """Send what a prefill replica has computed."""
        now, request = self.engine.now, self._whole.pop(id(half))
        begin = max(now, self._free_at.get(pod.order, 0.0))
        end = begin + self.link.seconds(request.prompt_tokens)
        self._free_at[pod.order] = end
        self.transferred_bytes += request.prompt_tokens * self.link.bytes_per_token
        self.transfer_seconds += end - now
        self.engine.at(end, self.decode.fetch, request)

    def gpu_seconds(self) -> float:
        """Of both roles, up to now."""
        return sum(role.gpu_seconds_until_now() for role in self.roles)


def disaggregated(
    engine: Engine,
    pair: Pair,
    link: Link,
    cards: Cards,
    cold_start_seconds: Callable[[str, int, Placement], float],
    served: Served,
) -> Disaggregated:
    """A model without replicas yet. `cold_start_seconds` gets the role, the order of the start and the placement."""
    prefill = PrefillDeployment(
        engine, pair.speed, cards_per_replica=pair.cards, cards=cards, served=_Handing(),
        cold_start_seconds=lambda order, placement: cold_start_seconds("prefill", order, placement),
    )  # fmt: skip
    decode = DecodeDeployment(
        engine, pair.speed, cards_per_replica=pair.cards, cards=cards, served=served,
        cold_start_seconds=lambda order, placement: cold_start_seconds("decode", order, placement),
    )  # fmt: skip
    model = Disaggregated(engine, pair, link, prefill, decode, served)
    prefill.hand_over = model.hand_over
    return model

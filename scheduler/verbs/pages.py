"""The pages for people and other programs: fit, explain, cards, snapshot. They read and never write.

One is answered at a time, callers by turns, with a rest after each: whoever asks again and again takes a part of the event loop's
time and no more.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from headroom import wire
from headroom.daemon.http import JSON, THIS_MACHINE, Page, Question, Reply, Route, fault
from headroom.daemon.pages import Health
from headroom.daemon.turns import Turns
from headroom.domain.request import RequestError, request_of
from headroom.kube.client import KubeError
from headroom.wire import WireError
from scheduler.cluster.decisions import Decisions
from scheduler.cluster.state import ClusterState
from scheduler.leadership import Leadership
from scheduler.verbs.cards import CardsPage
from scheduler.verbs.explain import explanation
from scheduler.verbs.fit import FitPage, FitQuestion
from scheduler.verbs.snapshot import snapshot

_FIT_QUESTION: Final = wire.Decoder(FitQuestion)
_LONGEST_REST_SECONDS: Final = 1.0


class Pages:
    """What may be asked of the extender besides kube-scheduler's verbs."""

    def __init__(
        self,
        state: ClusterState,
        decisions: Decisions,
        fit: FitPage,
        cards: CardsPage,
        health: Health,
        leadership: Leadership,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        self._state, self._decisions, self._fit_page, self._cards_page = state, decisions, fit, cards
        self._health, self._leadership, self._monotonic = health, leadership, monotonic
        self._turns = Turns(longest_rest_seconds=_LONGEST_REST_SECONDS)

    def pages(self) -> dict[Route, Page]:
        """The pages by method and path."""
        return {
            ("POST", "/v1/fit"): self._fit,
            ("GET", "/v1/explain"): self._explain,
            ("GET", "/v1/cards"): self._cards,
            ("GET", "/debug/snapshot"): self._snapshot,
        }

    async def _fit(self, asked: Question) -> Reply:
        if asked.content_type != JSON:
            return fault(415, f"Content-Type is {asked.content_type}, not {JSON}")
        if not self._health.ready:
            return fault(503, "not ready: the cluster's state is still being read")
        async with self._turns.turn(asked.caller):
            try:
                question = _FIT_QUESTION.decode(asked.body)
                request = request_of(question.pod, self._state.customs)
                if request is None:
                    return fault(400, f"pod {question.pod.key} asks for no GPU")
                return _json(await self._fit_page.answer(question, request))
            except (WireError, RequestError) as error:
                return fault(400, str(error))
            except KubeError as error:
                return fault(503, f"the pods that this one is kept apart from cannot be listed: {error}")

    async def _explain(self, asked: Question) -> Reply:
        pod = asked.query.get("pod", "")
        if pod.count("/") != 1:
            return fault(400, "ask with ?pod=namespace/name")
        async with self._turns.turn(asked.caller):
            answer = await explanation(self._state, self._decisions, pod, self._monotonic())
        aside = {} if self._leadership.deciding else {"this_extender": self._leadership.words}
        if answer is None:
            return _json({"Error": f"nothing is known of pod {pod}"} | aside, 404)
        return _json(answer | aside)

    async def _cards(self, asked: Question) -> Reply:
        if not self._health.ready:
            return fault(503, "not ready: the cluster's state is still being read")
        await self._cards_page.read_busy()
        async with self._turns.turn(asked.caller):
            answer = await self._cards_page.answer(asked.query.get("node", ""))
        if answer is None:
            return fault(404, f"no node {asked.query['node'][:253]!r} is known to have cards")
        return Reply(answer)

    async def _snapshot(self, asked: Question) -> Reply:
        if asked.caller not in THIS_MACHINE:
            return fault(403, "this page is for callers on the same machine")
        async with self._turns.turn(asked.caller):
            return Reply(await snapshot(self._state, self._monotonic(), check="check" in asked.query))


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(msgspec.json.encode(value), status=status)

"""HTTP: the three verbs for kube-scheduler, and the pages for people and other programs.

Every answer is JSON. A message that cannot be understood gets a 4xx with an `Error`; only a decision gets a 200.
"""

import ipaddress
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from headroom import wire
from headroom.daemon.pages import Health
from headroom.domain.request import RequestError, request_of
from headroom.errors import HeadroomError
from headroom.kube.client import KubeError
from headroom.wire import WireError
from scheduler.cluster.decisions import Decisions
from scheduler.cluster.state import ClusterState
from scheduler.leadership import Leadership
from scheduler.metrics import SchedulerMetrics
from scheduler.settings import SchedulerSettings
from scheduler.verbs import protocol
from scheduler.verbs.bind import Binder, BindError
from scheduler.verbs.explain import explanation, snapshot
from scheduler.verbs.filter import Answer, Extender
from scheduler.verbs.fit import FitPage, FitQuestion
from scheduler.verbs.preempt import PREEMPTION_ARGS, answer_preempt

_JSON: Final = "application/json"
_BOUND: Final = b"{}"


_FIT_QUESTION: Final = wire.Decoder(FitQuestion)


class _RefusedError(HeadroomError):
    """A request that is answered with a 4xx or 5xx."""

    def __init__(self, status: int, result: str, message: str) -> None:
        super().__init__(message)
        self.status, self.result = status, result


class ExtenderServer:
    """Routes of the extender; `health` and `leadership` decide whether verbs are answered.

    `head_start(uid)` may hold a pod's filter call back for a moment (see `scheduler.background.nominating`).
    """

    def __init__(
        self,
        state: ClusterState,
        extender: Extender,
        binder: Binder,
        decisions: Decisions,
        fit: FitPage,
        settings: SchedulerSettings,
        metrics: SchedulerMetrics,
        health: Health,
        leadership: Leadership,
        *,
        head_start: Callable[[str], Awaitable[None]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state, self._extender, self._binder, self._decisions = state, extender, binder, decisions
        self._fit_page = fit
        self._settings, self._metrics, self._health, self._leadership = settings, metrics, health, leadership
        self._head_start = head_start
        self._monotonic = monotonic

    def app(self) -> web.Application:
        """The application to serve."""
        routes = [
            web.post("/filter", self._filter),
            web.post("/prioritize", self._prioritize),
            web.post("/bind", self._bind),
            web.post("/preempt", self._preempt),
            web.post("/v1/fit", self._fit),
            web.get("/v1/explain", self._explain),
            web.get("/debug/snapshot", self._snapshot),
        ]
        return self._health.app(routes, client_max_size=self._settings.max_body_mib * 2**20)

    async def _filter(self, http: web.Request) -> web.Response:
        return await self._verb(http, "filter", self._answer_filter)

    async def _prioritize(self, http: web.Request) -> web.Response:
        return await self._verb(http, "prioritize", self._answer_prioritize)

    async def _bind(self, http: web.Request) -> web.Response:
        return await self._verb(http, "bind", self._answer_bind)

    async def _preempt(self, http: web.Request) -> web.Response:
        return await self._verb(http, "preempt", self._answer_preempt)

    async def _answer_preempt(self, body: bytes) -> Answer:
        return Answer(answer_preempt(self._state, PREEMPTION_ARGS.decode(body)), "answered")

    async def _answer_filter(self, body: bytes) -> Answer:
        args = protocol.EXTENDER_ARGS.decode(body)
        await self._head_start(args.pod.metadata.uid)
        return self._extender.filter(args)

    async def _answer_prioritize(self, body: bytes) -> Answer:
        return self._extender.prioritize(protocol.EXTENDER_ARGS.decode(body))

    async def _answer_bind(self, body: bytes) -> Answer:
        try:
            await self._binder.bind(protocol.BINDING_ARGS.decode(body))
        except BindError as error:
            return Answer(wire.encode(protocol.BindingResult(error=str(error))), "error")
        return Answer(_BOUND, "bound")

    async def _verb(
        self, http: web.Request, verb: str, answer_to: Callable[[bytes], Awaitable[Answer]]
    ) -> web.Response:
        try:
            self._check_caller(http)
            body = await self._body(http)
            self._check_ready()
            async with self._leadership.asked() as deciding:
                self._check_deciding(deciding)
                # Reading the body is the network's time, and the caller's.
                start = self._monotonic()
                answer = await answer_to(body)
            response = web.Response(body=answer.body, content_type=_JSON)
            result = answer.result
            self._metrics.request_seconds.labels(verb).observe(self._monotonic() - start)
        except _RefusedError as refused:
            result, response = refused.result, _error(refused.status, str(refused))
        except (WireError, RequestError) as error:
            result, response = "bad_request", _error(400, str(error))
        self._metrics.requests.labels(verb, result).inc()
        return response

    def _check_caller(self, http: web.Request) -> None:
        if self._settings.allow_remote or http.remote is None:
            return
        if not ipaddress.ip_address(http.remote).is_loopback:
            raise _RefusedError(
                403, "forbidden", "only kube-scheduler on this machine may call this (see --allow-remote)"
            )

    def _check_ready(self) -> None:
        if not self._health.ready:
            raise _RefusedError(503, "not_ready", "not ready: the cluster's state is still being read")

    def _check_deciding(self, deciding: bool) -> None:
        if not deciding:
            raise _RefusedError(503, "standby", f"this extender {self._leadership.words}")

    async def _body(self, http: web.Request) -> bytes:
        if http.content_type != _JSON:
            raise _RefusedError(415, "bad_request", f"Content-Type is {http.content_type}, not {_JSON}")
        try:
            return await http.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise _RefusedError(
                413, "bad_request", f"the body is longer than {self._settings.max_body_mib} MiB"
            ) from error

    async def _fit(self, http: web.Request) -> web.Response:
        try:
            question = _FIT_QUESTION.decode(await self._body(http))
            self._check_ready()
            request = request_of(question.pod)
        except _RefusedError as refused:
            return _error(refused.status, str(refused))
        except (WireError, RequestError) as error:
            return _error(400, str(error))
        if request is None:
            return _error(400, f"pod {question.pod.key} asks for no GPU")
        try:
            return _json(await self._fit_page.answer(question, request))
        except WireError as error:
            return _error(400, str(error))
        except KubeError as error:
            return _error(503, f"the pods that this one is kept apart from cannot be listed: {error}")

    async def _explain(self, http: web.Request) -> web.Response:
        pod = http.query.get("pod", "")
        if pod.count("/") != 1:
            return _error(400, "ask with ?pod=namespace/name")
        answer = explanation(self._state, self._decisions, pod, self._monotonic())
        aside = {} if self._leadership.deciding else {"this_extender": self._leadership.words}
        if answer is None:
            return _json({"Error": f"nothing is known of pod {pod}"} | aside, 404)
        return _json(answer | aside)

    async def _snapshot(self, http: web.Request) -> web.Response:
        return _json(snapshot(self._state, self._monotonic(), check="check" in http.query))


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type=_JSON, status=status)


def _error(status: int, message: str) -> web.Response:
    return _json({"Error": message}, status)

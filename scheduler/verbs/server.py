"""HTTP for kube-scheduler: filter, prioritize, bind and preempt.

Every answer is JSON. A message that cannot be understood gets a 4xx with an `Error`; only a decision gets a 200.
"""

import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final, TypeAlias

from aiohttp import web

from headroom import wire
from headroom.daemon.http import JSON, THIS_MACHINE, BodyError, Handler, Route, address_of, error, read_body
from headroom.daemon.pages import Health
from headroom.domain.request import RequestError
from headroom.errors import HeadroomError
from headroom.wire import WireError
from scheduler.cluster.state import ClusterState
from scheduler.leadership import Leadership
from scheduler.metrics import SchedulerMetrics
from scheduler.settings import SchedulerSettings
from scheduler.verbs import protocol
from scheduler.verbs.bind import Binder, BindError
from scheduler.verbs.filter import Answer, Extender
from scheduler.verbs.preempt import PREEMPTION_ARGS, answer_preempt
from scheduler.verbs.tls import may_call

_BOUND: Final = b"{}"
_BODY_SECONDS: Final = 5.0  # kube-scheduler itself gives up after as long

_Verb: TypeAlias = Callable[[bytes], Awaitable[Answer]]
Check: TypeAlias = Callable[[web.BaseRequest], None]
"""Raises for a caller that may not ask."""


class VerbRefusedError(HeadroomError):
    """A request that is answered with a 4xx or 5xx."""

    def __init__(self, status: int, result: str, message: str) -> None:
        super().__init__(message)
        self.status, self.result = status, result


def anyone(_: web.BaseRequest) -> None:
    """No check: whoever reaches the port may place pods."""


def this_machine(http: web.BaseRequest) -> None:
    """Callers from 127.0.0.1 and ::1 only."""
    if address_of(http.transport) not in THIS_MACHINE:
        raise VerbRefusedError(
            403, "forbidden", "only kube-scheduler on this machine may call this (see --allow-remote)"
        )


def with_certificate(names: Collection[str]) -> Check:
    """Callers over TLS whose certificate has one of these common names; any that the handshake took where there are none."""

    def check(http: web.BaseRequest) -> None:
        if not may_call(http.transport, names):
            raise VerbRefusedError(403, "forbidden", "the certificate's common name is not one of --tls-client-names")

    return check


def over_tls_only(port: int) -> Check:
    """Nobody: the verbs are answered on another port."""

    def check(_: web.BaseRequest) -> None:
        raise VerbRefusedError(403, "forbidden", f"this is answered over TLS on port {port} only")

    return check


class ExtenderServer:
    """The verbs; `health` and `leadership` decide whether they are answered.

    `head_start(uid)` may hold a pod's filter call back for a moment (see `scheduler.background.nominating`); `answered` is told
    when one has been answered.
    """

    def __init__(
        self,
        state: ClusterState,
        extender: Extender,
        binder: Binder,
        settings: SchedulerSettings,
        metrics: SchedulerMetrics,
        health: Health,
        leadership: Leadership,
        *,
        head_start: Callable[[str], Awaitable[None]],
        answered: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state, self._extender, self._binder = state, extender, binder
        self._settings, self._metrics, self._health, self._leadership = settings, metrics, health, leadership
        self._head_start, self._answered = head_start, answered
        self._monotonic = monotonic
        self._verbs: dict[str, _Verb] = {
            "filter": self._filter,
            "prioritize": self._prioritize,
            "bind": self._bind,
            "preempt": self._preempt,
        }

    def handlers(self, check_caller: Check) -> dict[Route, Handler]:
        """The verbs by method and path, for callers that pass the check."""
        return {("POST", f"/{verb}"): self._handler(verb, check_caller) for verb in self._verbs}

    async def answer(self, verb: str, body: bytes) -> Answer:
        """What a verb is answered with, whoever asks. Raises VerbRefusedError, WireError and RequestError."""
        self._check_ready()
        async with self._leadership.asked() as deciding:
            self._check_deciding(deciding)
            # Reading the body is the network's time, and the caller's.
            start = self._monotonic()
            answer = await self._verbs[verb](body)
        self._metrics.request_seconds.labels(verb).observe(self._monotonic() - start)
        return answer

    async def _filter(self, body: bytes) -> Answer:
        args = protocol.EXTENDER_ARGS.decode(body)
        await self._head_start(args.pod.metadata.uid)
        answer = self._extender.filter(args)
        self._answered()
        return answer

    async def _prioritize(self, body: bytes) -> Answer:
        return self._extender.prioritize(protocol.EXTENDER_ARGS.decode(body))

    async def _bind(self, body: bytes) -> Answer:
        try:
            await self._binder.bind(protocol.BINDING_ARGS.decode(body))
        except BindError as refused:
            return Answer(wire.encode(protocol.BindingResult(error=str(refused))), "error")
        return Answer(_BOUND, "bound")

    async def _preempt(self, body: bytes) -> Answer:
        return Answer(await answer_preempt(self._state, PREEMPTION_ARGS.decode(body)), "answered")

    def _handler(self, verb: str, check_caller: Check) -> Handler:
        async def handle(http: web.BaseRequest) -> web.StreamResponse:
            try:
                check_caller(http)
                answer = await self.answer(verb, await self._body(http))
                result, response = answer.result, web.Response(body=answer.body, content_type=JSON)
            except VerbRefusedError as refused:
                result, response = refused.result, error(refused.status, str(refused))
            except (WireError, RequestError) as fault:
                result, response = "bad_request", error(400, str(fault))
            except BodyError as fault:
                result, response = "bad_request", error(fault.status, str(fault))
                response.force_close()
            self._metrics.requests.labels(verb, result).inc()
            return response

        return handle

    def _check_ready(self) -> None:
        if not self._health.ready:
            raise VerbRefusedError(503, "not_ready", "not ready: the cluster's state is still being read")

    def _check_deciding(self, deciding: bool) -> None:
        if not deciding:
            raise VerbRefusedError(503, "standby", f"this extender {self._leadership.words}")

    async def _body(self, http: web.BaseRequest) -> bytes:
        if http.content_type != JSON:
            raise VerbRefusedError(415, "bad_request", f"Content-Type is {http.content_type}, not {JSON}")
        return await read_body(http, most_bytes=self._settings.max_body_mib * 2**20, within_seconds=_BODY_SECONDS)

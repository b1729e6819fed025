"""Whole extenders, kube-schedulers and an API server in virtual time, and a schedule of things that happen, drawn from a seed.

After each step the truth is looked at (`truth`: no card given twice) and every extender's books; at the end everything comes to
rest, and what is held must be what is bound, and what fits must be bound.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

from scheduler.cluster.pod_entry import HOLDING
from scheduler.ledger.holding import HoldingState
from tests.property.scheduler.daemon import themes
from tests.property.scheduler.daemon.extenders import Extender
from tests.property.scheduler.daemon.kube_scheduler import KubeScheduler
from tests.property.scheduler.daemon.truth import MODEL_LABEL, MODELS, Object, Truth, node_object
from tests.property.scheduler.daemon.weather import Client, Weather


class Broken(AssertionError):
    """Something that must hold does not; says what, and after which step."""


class World:
    """Everything of one run."""

    def __init__(self, seed: int, theme: str = "") -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self.several = self.rng.random() < 0.6
        self.limited = self.rng.random() < 0.3
        self.preemption_seconds = self.rng.choice((5.0, 15.0, 60.0))
        drawn = self.rng.choice(tuple(themes.THEMES))
        self.theme = theme or drawn
        self.truth = Truth(lambda: asyncio.get_running_loop().time())
        self.weather = Weather()
        self.extenders: dict[str, Extender] = {}
        self.leader, self.led_until = "a", {"a": 0.0, "b": 0.0}
        self.kube: dict[str, KubeScheduler] = {}
        self.steps: list[str] = []
        self._schedulers: list[asyncio.Task[None]] = []
        self._coup_under_way = False
        self._replacing: set[str] = set()
        self._names = 0
        self._later: set[asyncio.Task[None]] = set()

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def run(self, steps: int) -> None:
        for name, models in MODELS.items():
            self.truth.set_node(node_object(name, models))
        if self.limited:
            self.truth.set_quota(self.rng.choice(themes.QUOTAS_GIB))
        for name in ("a", "b") if self.several else ("a",):
            self.extenders[name] = Extender(self, name)
            self.kube[name] = KubeScheduler(self.truth, self.rng, self._asker(name), self._leads(name))
        self._schedulers = [asyncio.get_running_loop().create_task(kube.run()) for kube in self.kube.values()]
        await asyncio.sleep(5.0)
        acts = [act for _, act in self._actions()]
        often = themes.THEMES[self.theme]
        weights = [weight * often.get(act.__name__.strip("_"), 1.0) for weight, act in self._actions()]
        for _ in range(steps):
            act = self.rng.choices(acts, weights)[0]
            self.steps.append(f"{self.now:8.2f} {act.__name__.strip('_')}")
            act()
            long = self.rng.random() < 0.01
            await asyncio.sleep(themes.LONG_PAUSE_SECONDS if long else self.rng.choice(themes.PAUSES_SECONDS))
            self._check()
        await self._rest()

    def _asker(self, name: str) -> Callable[[str, bytes], Awaitable[bytes | None]]:
        async def ask(verb: str, body: bytes) -> bytes | None:
            return await self.extenders[name].ask(verb, body)

        return ask

    def _leads(self, name: str) -> Callable[[], bool]:
        return lambda: self.leader == name or self.now < self.led_until[name]

    # What happens

    def _actions(self) -> list[tuple[float, Callable[[], None]]]:
        return [
            (25, self._create), (10, self._delete), (10, self._finish), (2, self._replace), (2, self._ungate), (1, self._resize),
            (1, self._foreign), (2, self._node_unreadable), (1, self._node_gone), (1, self._cordon), (3, self._late_call),
            (2, self._storm), (3, self._calm), (2, self._cut_off), (3, self._heal), (2, self._hang), (2, self._forget_history),
            (1, self._restart), (1, self._kill), (2, self._other_leads), (2, self._lag), (2, self._rush),
            (1, self._handler_fails), (0.5, self._coup), (0.5, self._blink), (1, self._other_quota),
            (1, self._impatience), (0.5, self._stop),
        ]  # fmt: skip

    def _pick(self, among: list[Object]) -> Object | None:
        return self.rng.choice(among) if among else None

    def _pods(self, *, bound: bool | None = None) -> list[Object]:
        pods = self.truth.pods.values()
        return [pod for pod in pods if bound is None or bool(pod["spec"].get("nodeName")) == bound]

    def _create(self, priority: int | None = None) -> None:
        if len(self._pods(bound=False)) >= themes.MOST_WAITING:
            return
        self._names += 1
        spec: Object = {"priority": self.rng.choice((0, 0, 0, 10, 100)) if priority is None else priority}
        if self.rng.random() < 0.15:
            spec["schedulingGates"] = [{"name": "kueue"}]
        self.truth.add_pod(f"p{self._names}", self.rng.choice(themes.SIZES_GIB), **spec)

    def _rush(self) -> None:
        for _ in range(self.rng.randint(3, 8)):
            self._create()

    def _delete(self) -> None:
        if pod := self._pick(self._pods()):
            self.truth.remove_pod(pod["metadata"]["name"])

    def _finish(self) -> None:
        if pod := self._pick(self._pods(bound=True)):
            pod["status"]["phase"] = self.rng.choice(("Succeeded", "Failed"))
            self.truth.change_pod(pod["metadata"]["name"])

    def _replace(self) -> None:
        """A StatefulSet makes a pod anew under its name, within the same second."""
        if pod := self._pick(self._pods()):
            name = pod["metadata"]["name"]
            gib = int(pod["spec"]["containers"][0]["resources"]["limits"]["headroom.dev/vram"].removesuffix("Gi"))
            self.truth.remove_pod(name)
            self.truth.add_pod(name, gib, priority=pod["spec"].get("priority", 0))

    def _ungate(self) -> None:
        """Kueue admits a workload: the gate goes, the selector of a flavour comes."""
        if pod := self._pick([pod for pod in self._pods(bound=False) if pod["spec"].get("schedulingGates")]):
            del pod["spec"]["schedulingGates"]
            pod["spec"]["nodeSelector"] = {MODEL_LABEL: self.rng.choice(("A100", "H100"))}
            self.truth.change_pod(pod["metadata"]["name"])

    def _resize(self) -> None:
        if pod := self._pick(self._pods()):
            pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = str(self.rng.randint(1, 8))
            self.truth.change_pod(pod["metadata"]["name"])

    def _foreign(self) -> None:
        self._names += 1
        name = self.rng.choice(list(MODELS))
        self.truth.add_foreign_pod(f"f{self._names}", name, f"{name}-g{self.rng.randrange(len(MODELS[name]))}", 20)

    def _node_unreadable(self) -> None:
        name = self.rng.choice(list(MODELS))
        if name in self.truth.nodes:
            self.truth.set_node(node_object(name, MODELS[name], readable=False))
            self._soon(self.rng.choice((0.05, 0.5, 5.0)), lambda: self._node_back(name))

    def _node_gone(self) -> None:
        name = self.rng.choice(list(MODELS))
        if name in self.truth.nodes:
            self.truth.remove_node(name)
            self._soon(self.rng.choice((0.05, 0.5, 30.0)), lambda: self._node_back(name))

    def _node_back(self, name: str) -> None:
        self.truth.set_node(node_object(name, MODELS[name]))

    def _cordon(self) -> None:
        name = self.rng.choice(list(MODELS))
        if name in self.truth.nodes:
            self.truth.set_node(node_object(name, MODELS[name]) | {"spec": {"unschedulable": True}})
            self._soon(20.0, lambda: self._node_back(name))

    def _late_call(self) -> None:
        """kube-scheduler asks about a pod as it was a while ago."""
        kube = self.kube[self.leader]
        if pod := self._pick(kube.older[-40:]):
            self._start(self._ask_late(kube, pod))

    async def _ask_late(self, kube: KubeScheduler, pod: Object) -> None:
        nodes = self.rng.sample(sorted(MODELS), self.rng.randint(1, 2))
        answer = await kube.call("filter", {"Pod": pod, "NodeNames": nodes})
        if answer and answer["NodeNames"] and self.rng.random() < 0.5:
            meta = pod["metadata"]
            body = {"PodName": meta["name"], "PodNamespace": "default", "PodUID": meta["uid"]}
            await kube.call("bind", body | {"Node": answer["NodeNames"][0]})

    def _impatience(self) -> None:
        """kube-scheduler gives bind calls up that are still under way, and asks again about their pods."""
        self.kube[self.leader].impatient = self.rng.randint(1, 3)
        self._rush()

    def _storm(self) -> None:
        draw = self.rng.choice
        self._set_weather(
            Weather(
                lost=draw((0.0, 0.0, 0.2)), unanswered=draw((0.0, 0.1, 0.3)), late=draw((0.0, 0.2, 0.5)),
                broken=draw((0.0, 0.0, 0.1)), slow=draw((0.0, 0.3, 0.6)), lag_seconds=draw((0.05, 2.0, 8.0)),
            )
        )  # fmt: skip

    def _calm(self) -> None:
        self._set_weather(themes.CALM)

    def _set_weather(self, weather: Weather) -> None:
        self.weather = weather
        for extender in self.extenders.values():
            extender.client.weather = weather

    def _cut_off(self) -> None:
        self.rng.choice(list(self.extenders.values())).client.cut_off = True

    def _hang(self) -> None:
        kind = self.rng.choice(("pods", "pods", "nodes"))
        self.rng.choice(list(self.extenders.values())).client.hung.add(kind)

    def _heal(self) -> None:
        for extender in self.extenders.values():
            extender.client.cut_off = False
            extender.client.hung.clear()

    def _forget_history(self) -> None:
        self.truth.forgotten = self.truth.version

    def _restart(self) -> None:
        self._start(self._replace_extender(self.rng.choice(list(self.extenders)), orderly=True))

    def _kill(self) -> None:
        self._start(self._replace_extender(self.rng.choice(list(self.extenders)), orderly=False))

    async def _replace_extender(self, name: str, *, orderly: bool) -> None:
        if name in self._replacing:
            return  # its place, and its port, can be taken by one process only
        self._replacing.add(name)
        await self.extenders[name].end(orderly=orderly)
        await asyncio.sleep(self.rng.choice((0.5, 5.0, 40.0)))
        self.extenders[name] = Extender(self, name)
        self._replacing.discard(name)

    def _coup(self) -> None:
        """The one that decides is cut off; the other takes over, ends in order and is away for a while; the first comes back."""
        if self.several and not self._coup_under_way:
            self._start(self._carry_out_coup())

    async def _carry_out_coup(self) -> None:
        self._coup_under_way = True
        first = self.leader
        self.extenders[first].client.cut_off = True
        self._other_leads()
        await asyncio.sleep(self.rng.choice((17.0, 20.0, 30.0)))
        for act in (self._delete, self._finish, self._rush):
            act()
        await asyncio.sleep(self.rng.choice((1.0, 5.0)))
        replacing = asyncio.get_running_loop().create_task(self._replace_extender(self.leader, orderly=True))
        await asyncio.sleep(self.rng.choice((0.3, 2.0)))
        self._other_leads()
        back = self.extenders[first].client
        if self.rng.random() < 0.5:  # its watch lags behind what it learns of the lease
            back.hung.add("pods")
            self._soon(20.0, lambda: back.hung.discard("pods"))
        back.cut_off = False
        self._rush()
        await replacing
        self._coup_under_way = False

    def _stop(self) -> None:
        """The one that decides is stopped between its last look at the lease and a binding; it goes on when another decides."""
        if self.several and not self._coup_under_way:
            self._start(self._carry_out_stop())

    async def _carry_out_stop(self) -> None:
        self._coup_under_way = True
        client, seconds = self.extenders[self.leader].client, self.rng.choice((22.0, 30.0, 45.0))
        client.stops_for = seconds
        self._rush()
        until = self.now + 10.0
        while not client.stopped and self.now < until:
            await asyncio.sleep(0.1)
        client.stops_for = None
        if client.stopped:
            self._other_leads()
            self._create(priority=100)  # before the one whose binding is yet to come
            await asyncio.sleep(seconds)
        self._coup_under_way = False

    def _blink(self) -> None:
        """A pod comes, is bound and goes while the pod watches are away, and their history with them."""
        self._start(self._carry_out_blink())

    async def _carry_out_blink(self) -> None:
        for extender in self.extenders.values():
            extender.client.hung.add("pods")
        self._create()
        await asyncio.sleep(self.rng.choice((1.0, 3.0)))
        for pod in self._pods(bound=True)[-2:]:
            self.truth.remove_pod(pod["metadata"]["name"])
        self._forget_history()
        self._heal()

    def _other_leads(self) -> None:
        if self.several:
            self.led_until[self.leader] = self.now + self.rng.choice((0.0, 0.5, 3.0))
            self.leader = "b" if self.leader == "a" else "a"

    def _handler_fails(self) -> None:
        """The next event meets an error that nobody foresaw."""
        self.rng.choice(list(self.extenders.values())).unforeseen = 1

    def _other_quota(self) -> None:
        if self.limited:
            self.truth.set_quota(self.rng.choice(themes.QUOTAS_GIB))

    def _lag(self) -> None:
        self.kube[self.leader].lag_seconds = self.rng.choice((0.02, 0.1, 1.0, 6.0))

    def evict_asked(self, client: Client, name: str) -> None:
        """An eviction is asked for: somebody more important must be waiting, for all that the extender knows."""
        if name not in self.truth.pods:
            return
        priority = self.truth.pods[name]["spec"].get("priority", 0)
        if not any(pod["spec"].get("priority", 0) > priority for pod in self._waiting_as_known_to(client)):
            self.truth.wrongs.append(f"{name} is evicted for nobody that waits")

    def evict(self, victim: Object) -> None:
        """An eviction is carried out."""
        if not victim["metadata"].get("deletionTimestamp"):
            victim["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z"
            name, uid = victim["metadata"]["name"], victim["metadata"]["uid"]
            self.truth.change_pod(name)
            self._soon(self.rng.choice((0.1, 2.0, 30.0)), lambda: self._gone(name, uid))

    def _waiting_as_known_to(self, client: Client) -> list[Object]:
        """Pods without a node whose end its watch has not told: of any that is newer, kube-scheduler may have told."""
        known: dict[str, Object] = {}
        for version, _, kind, event, body in self.truth.log:
            if kind != "pods":
                continue
            if version <= client.told["pods"]:
                known[body["metadata"]["uid"]] = body
                if event == "DELETED":
                    del known[body["metadata"]["uid"]]
            else:
                known.setdefault(body["metadata"]["uid"], body)
        return [
            pod for uid, pod in known.items() if not pod["spec"].get("nodeName") and uid not in client.answered_bound
        ]

    def _gone(self, name: str, uid: str) -> None:
        if name in self.truth.pods and self.truth.pods[name]["metadata"]["uid"] == uid:
            self.truth.remove_pod(name)

    def _soon(self, seconds: float, act: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, act)

    def _start(self, work: "asyncio.Coroutine[object, object, None]") -> None:  # type: ignore[name-defined]
        task = asyncio.get_running_loop().create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    # What must hold

    def _fail(self, what: str) -> None:
        raise Broken(f"seed {self.seed} ({self.theme}): {what}\nafter:\n" + "\n".join(self.steps[-25:]))

    def _check(self) -> None:
        for task in self._schedulers:
            if task.done():
                task.result()
        if self.truth.wrongs:
            self._fail(self.truth.wrongs[0])
        alive = [extender for extender in self.extenders.values() if not extender.client.dead]
        if sum(extender.daemon.leadership.deciding for extender in alive) > 1:
            self._fail("two extenders decide")
        for extender in alive:
            breaches = [words for words in extender.daemon.state.breaches() if not words.startswith("over-committed")]
            if breaches:
                self._fail(f"{extender.name}: {breaches[0]}")
            if failures := extender.failures():
                self._fail(f"{extender.name}: tasks failed: {failures}")

    async def _rest(self) -> None:
        """Everything works again and nothing more happens."""
        if self._later:
            await asyncio.wait(self._later)
        for extender in self.extenders.values():
            extender.unforeseen = 0
        self._heal()
        self._calm()
        for kube in self.kube.values():
            kube.lag_seconds = 0.02
        for name, models in MODELS.items():
            self.truth.set_node(node_object(name, models))
        for pod in self._pods(bound=False):
            if pod["spec"].get("schedulingGates"):
                self.truth.remove_pod(pod["metadata"]["name"])
        self.steps.append(f"{self.now:8.2f} everything comes to rest")
        await asyncio.sleep(300.0)
        self._check()
        for pod in self._pods(bound=False):
            if card := self.truth.card_for(pod):
                self._fail(f"pod {pod['metadata']['name']} waits although {card} has room for it")
        for task in self._schedulers:
            task.cancel()
        self._schedulers.clear()
        await asyncio.sleep(100.0)
        self._check()
        self._compare()

    def _compare(self) -> None:
        """At rest, the books hold what is bound, and nothing else."""
        bound = {
            pod["metadata"]["uid"]
            for pod in self._pods(bound=True)
            if pod["status"]["phase"] not in ("Succeeded", "Failed")
        }
        for extender in self.extenders.values():
            state = extender.daemon.state
            held = {uid for uid, holding in state.ledger.holdings.items() if holding.state is HoldingState.BOUND}
            if held != bound:
                self._fail(
                    f"{extender.name} holds for {sorted(held - bound)} too much and {sorted(bound - held)} too little"
                )
            left = [entry.key for entry in state.pods.entries.values() if entry.stage in HOLDING]
            if left or state.pods.claims:
                self._fail(f"{extender.name}: at rest {left} hold reservations, {list(state.pods.claims)} claims")

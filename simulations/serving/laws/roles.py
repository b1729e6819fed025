"""Headroom's law on a model whose prefill and decode have replicas of their own: as one object with two roles, and as two objects."""

from dataclasses import replace
from typing import Final, Protocol

from autoscaler.law.decide import Decision, Rule, capped, decide
from autoscaler.law.inputs import Observation
from autoscaler.law.rules.roles import part_of
from autoscaler.law.sizing import roles
from autoscaler.law.sizing.roles import Part, Role
from simulations.serving.fleet.deployment import Deployment
from simulations.serving.fleet.observe import View
from simulations.serving.fleet.pods import Phase
from simulations.serving.laws.base import Setting
from simulations.serving.laws.headroom import HeadroomLaw

Views = tuple[View, View]
"""Of prefill, of decode."""
Counts = tuple[int, int]


class PairLaw(Protocol):
    """A law for both roles."""

    def watch(self, prefill: Deployment, decode: Deployment, seed: int) -> None:
        """Scrape them from now on."""

    def wishes(self, views: Views) -> Counts:
        """One decision on each."""


class TwoObjects:
    """One object for each role, with the objective of the whole, as somebody writes them who has no better way.

    With `prompt_seconds` the object of prefill states what a prompt token costs, as its user has measured it.
    """

    def __init__(self, setting: Setting, prompt_seconds: float | None = None) -> None:
        self._laws = (HeadroomLaw(setting, {}), HeadroomLaw(setting, {}))
        if prompt_seconds is not None:
            law = self._laws[0]
            law.target = replace(law.target, costs=(prompt_seconds, 1e-9))

    def watch(self, prefill: Deployment, decode: Deployment, seed: int) -> None:
        """Scrape them from now on."""
        for law, role in zip(self._laws, (prefill, decode), strict=True):
            law.watch(role, seed, _none_silent)

    def wishes(self, views: Views) -> Counts:
        """Each decides alone."""
        return self._laws[0].wish(views[0]), self._laws[1].wish(views[1])


class _RoleLaw(HeadroomLaw):
    """One role. What the cluster can hold is asked for both together."""

    def __init__(self, setting: Setting, role: Role) -> None:
        super().__init__(setting, {})
        objective = self.target.spec.objective
        own = roles.objective_of(role, objective) if objective is not None else None
        self.target = replace(self.target, role=role, spec=replace(self.target.spec, objective=own))

    def observe(self, view: View) -> Observation:
        """Without an answer of the scheduler for this role alone."""
        return replace(super().observe(view), capacity=None)

    def decide(self, view: View) -> tuple[Part, Decision]:
        """What this role would do if there were room for all."""
        observation = self.observe(view)
        decision = decide(self.target.spec, self.state, observation, view.now, self.law)
        return part_of(self.target.spec, observation, decision), decision


class OneObject:
    """One object with two roles."""

    def __init__(self, setting: Setting) -> None:
        self._room = setting.room
        self._laws = (_RoleLaw(setting, Role.PREFILL), _RoleLaw(setting, Role.DECODE))

    def watch(self, prefill: Deployment, decode: Deployment, seed: int) -> None:
        """Scrape them from now on."""
        for law, role in zip(self._laws, (prefill, decode), strict=True):
            law.watch(role, seed, _none_silent)

    def wishes(self, views: Views) -> Counts:
        """Both decide; where there is no room for all, what there is goes to the role that has work for it."""
        parts, decisions = zip(*(law.decide(view) for law, view in zip(self._laws, views, strict=True)), strict=True)
        waiting = sum(view.deployment.count(Phase.PENDING) for view in views)
        room = max(self._room(_MANY) - waiting, 0)

        def fits(_role: Role, limit: int, beside: int) -> int:
            """Both roles run on equal cards here, so that room is room."""
            return min(max(room - beside, 0), limit)

        shared = roles.together(parts[0], parts[1], fits)
        for law, part, decision, count in zip(self._laws, parts, decisions, shared, strict=True):
            law.state = capped(decision, part.before, count, Rule.CAPACITY, f"the cluster can hold {count}").state
        prefill, decode = (min(one.replicas, count) for one, count in zip(decisions, shared, strict=True))
        return prefill, decode


_MANY: Final = 1000
"""Replicas; more than any fleet here holds."""


def _none_silent(_order: int) -> bool:
    return False

"""What every law is: an object with memory that is asked for a wish at each tick."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from simulations.serving.engine.hardware import Pair
from simulations.serving.fleet.deployment import Deployment
from simulations.serving.fleet.observe import View
from simulations.serving.laws.space import Space
from simulations.serving.loads.traces import Trace

Parameters = Mapping[str, float]


class Law(Protocol):
    """One law at work on one deployment."""

    def wish(self, view: View) -> int:
        """Replicas wanted now, before the bounds."""


@runtime_checkable
class Watching(Law, Protocol):
    """A law that scrapes the pods itself."""

    def watch(self, deployment: Deployment, seed: int, silent: Callable[[int], bool]) -> None:
        """Scrape this deployment; pods that `silent` names (by order of their start) never report."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What a request should get. A request meets it when both hold."""

    ttft_seconds: float
    itl_seconds: float
    """Mean over the request's tokens."""
    share: float = 0.98
    """Of the requests that are to meet it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a law may know of its deployment before the run."""

    pair: Pair
    objective: Objective
    min_replicas: int
    max_replicas: int
    tick_seconds: float
    scrape_seconds: float
    initial_replicas: int
    trace: Trace
    """Only for laws that are told the future: static-peak and the clairvoyant ones."""
    room: Callable[[int], int] = lambda limit: limit
    """How many more replicas the fleet can hold now, up to a limit (the scheduler's fit answer)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A law in the catalogue."""

    name: str
    title: str
    make: Callable[[Setting, Parameters], Law]
    defaults: Parameters
    """As its documentation gives them."""
    space: Space
    """All that its users can set: what tuning draws from."""
    source: str
    knows_future: bool = False
    did_well: tuple[Parameters, ...] = ()
    """Settings that were best on some load before: tuning tries them first, so that a small budget is fair."""

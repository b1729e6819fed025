"""The state as of one moment, for work beside the event loop: a page in a thread must not read what the loop is changing."""

from scheduler.cluster.state import ClusterState
from scheduler.ledger.fleet import Fleet
from scheduler.placement.profile import Profile
from scheduler.placement.quota import Quota


class StateView:
    """What the metrics page shows, as of the last `take`, which is called on the event loop."""

    fleet: Fleet
    profile: Profile
    quotas: list[tuple[Quota, int, int]]
    _figures: dict[str, float]

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self.take()

    def take(self) -> None:
        """Look at the state now."""
        self.fleet, self._figures = self._state.fleet.copy(), self._state.figures()
        self.quotas = self._state.quotas.each()
        self.profile = self._state.placer.profile.profile()

    def figures(self) -> dict[str, float]:
        """Gauge name without prefix -> value."""
        return self._figures

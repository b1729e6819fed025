"""Headroom's own policy."""

from scheduler.policies_fgd import Fgd


class Headroom(Fgd):
    """Placeholder of the bid-price policy."""

    name = "headroom"

"""How many replicas keep the objective: the fewest that are loaded so that no more requests than aimed at are late. Pure."""

import math
from typing import Final

from autoscaler.law.memory.lateness import expected_share
from autoscaler.law.memory.learned import LateCurve

LEAST_LOAD: Final = 0.2
"""Replicas loaded to less of what makes everything late are as good as idle: more of them would help nobody."""
MOST_LOAD: Final = 1.7
MOST: Final = 10**6
"""Replicas; more than any cluster has."""


def worth(work: float, deviation: float, curve: LateCurve, price: float) -> int:
    """The count from which one replica more would save less late work than it costs; a GPU second of late work is worth `price`."""
    count = max(math.floor(min(work / max(curve.full, 0.1), MOST)), 1)
    late = expected_share(curve, work / count, deviation / count)
    while count < MOST:
        after = expected_share(curve, work / (count + 1), deviation / (count + 1))
        if (late - after) * work * price < 1:
            break
        count, late = count + 1, after
    return count


def fewest(work: float, deviation: float, curve: LateCurve, late: float) -> int:
    """The fewest replicas at which at most a share `late` of requests beyond the floor is late; `work` known to within a deviation."""
    if work <= 0:
        return 0
    limit = curve.floor + (1 - curve.floor) * late
    full = max(curve.full, 0.1)
    low = max(math.floor(min(work / full / MOST_LOAD, MOST)), 1)
    high = max(math.ceil(min(work / full / LEAST_LOAD, MOST)), low)
    while low < high:
        middle = (low + high) // 2
        if expected_share(curve, work / middle, deviation / middle) > limit:
            low = middle + 1
        else:
            high = middle
    return high

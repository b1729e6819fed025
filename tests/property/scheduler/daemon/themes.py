"""What runs are made of: sizes, pauses, and what a theme has more or less of."""

from tests.property.scheduler.daemon.weather import Weather

SIZES_GIB = (20, 30, 40, 60, 70, 70, 70)
PAUSES_SECONDS = (0.02, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 1.5, 1.5, 3.0, 6.0, 6.0, 20.0)
QUOTAS_GIB = (110, 140, 170)
LONG_PAUSE_SECONDS = 150.0
MOST_WAITING = 6
CALM = Weather()
THEMES: dict[str, dict[str, float]] = {
    "everything": {},
    "bindings": {"storm": 3, "calm": 0.3, "rush": 2, "lag": 2, "impatience": 12},
    "nodes": {"node_unreadable": 8, "node_gone": 4, "storm": 3, "calm": 0.3},
    "reigns": {"coup": 6, "stop": 8, "kill": 4, "restart": 2, "storm": 2, "calm": 0.5},
    "names": {"replace": 4, "late_call": 5, "blink": 6, "hang": 2, "forget_history": 2},
    "importance": {"rush": 2, "storm": 4, "calm": 0.3, "late_call": 4},
    "deadlines": {
        "rush": 4,
        "storm": 6,
        "calm": 0.2,
        "node_gone": 0,
        "node_unreadable": 0,
        "foreign": 0,
        "other_quota": 0,
    },
    "errors": {"handler_fails": 15, "forget_history": 0, "hang": 0, "restart": 0, "kill": 0},
}
"""What happens more often, or less, in runs of a theme."""

"""The constants of the law, each with its reason. docs/autoscaling.md repeats them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LawConstants:
    """Numbers of the law, the same for all targets and not for users to set; only the two means follow the daemon's settings."""

    short_mean_seconds: float = 30.0
    """Two scrapes of 15 s: the shortest time that has a rate."""
    long_mean_seconds: float = 60.0
    """The larger of the two means counts: the short one sees a burst, the long one carries the trend."""
    spread: float = 1.0
    """k of R + k sqrt(R s): room for the randomness of arrivals, shrinking with size (square-root staffing)."""
    usual_request_seconds: float = 0.2
    """s where the lengths of requests are not known."""
    trend_seconds: float = 180.0
    """The rise of the load is the slope of its long mean over this time."""
    trend_points: int = 6
    """Fewer points are no trend."""
    trend_margin_seconds: float = 30.0
    """A pod created now helps after its start-up time plus this: scrape, decision, first requests."""
    trend_most: float = 1.0
    """A trend may at most add this share of the load: no doubling on a guess."""
    crowd_share: float = 1.0
    """Requests inside may fill replicas up to this share: above it more arrives than the prices foretold."""
    gateway_drain_seconds: float = 30.0
    """Requests that wait in the gateway are to be begun within this time once the replicas they asked for serve."""
    drain_seconds: float = 60.0
    """Waiting prompt work is to be done within this time."""
    tolerance: float = 0.1
    """No move while wish / replicas is within 1 +- tolerance (HPA's default); both ratio signals and work."""
    work_tolerance: float = 0.02
    """The same for `work`, which has its own room."""
    lower_margin: float = 0.025
    """What-if: the load may take at most 1 - margin of the target on the replicas that remain."""
    gauge_step: float = 0.25
    """A capped gauge above its target, or a latency above its objective, adds this share of the supply (at least one)."""
    gauge_lower: float = 0.7
    """Latencies below this share of their objective agree to lower."""
    gauge_full: float = 0.95
    """From here on a share is saturated and says nothing of how much is missing."""
    queue_growth: float = 2.0
    """A queue may ask for at most this multiple of the ready pods: it stays while others start, which is no demand."""
    hold_default_seconds: float = 300.0
    """Down window until gaps between bursts have been learned (the HPA's default)."""
    hold_minimum_seconds: float = 60.0
    """Shortest hold time: a lull between two scrapes is no end of demand."""
    hold_maximum_seconds: float = 960.0
    """Longest hold time that is learned: sixteen minutes, the edge of a bin."""
    rising_share: float = 0.15
    """No lowering while the short mean of the arriving work is so much above the long one: the load is coming back."""
    hold_memory_seconds: float = 3600.0
    """Longest gap between bursts that is told from `never again`."""
    miss_weight: float = 40.0
    """One GPU second of unserved work costs as much as this many idle GPU seconds: for the hold time and the reserve for bursts."""
    burst_memory_seconds: float = 3600.0
    """Bursts seen so long ago count 1/e."""
    burst_young_seconds: float = 1800.0
    """How often bursts come is reckoned over what has been seen, and at least this: with an objective only."""
    burst_margin: float = 0.25
    """Demand is sudden from this share above what was asked for a start-up time ago: less is met by the room there is."""
    burst_busy_share: float = 0.9
    """Busy share of the replicas in a burst; a lower target is room for bursts already."""
    gap_decay: float = 0.995
    """Weight of the gaps seen before, per new gap."""
    gaps_needed: float = 3.0
    """Gaps (replicas that came back) before the learned hold time replaces the default."""
    start_default_seconds: float = 120.0
    """Start-up time until one has been seen: the middle of the 60-240 s that LLM servers take."""
    start_memory: int = 16
    """Start-up times remembered; the median of them counts."""
    overdue_factor: float = 3.0
    """A starting pod older than this multiple of the start-up time earns no credit."""
    overdue_least_seconds: float = 60.0
    """No starting pod is long overdue before: a model in the page cache starts in seconds, on the next node its image is pulled."""
    outage_grace_seconds: float = 45.0
    """A gap in the signals longer than this empties the down window: a full one must pass again."""
    drain_wait_seconds: float = 300.0
    """The next step down waits at most so long for pods that still drain."""
    crash_share: float = 0.5
    """Crash-looping pods from this share on (at least two, or all) stop growth: a single one says nothing of the next."""
    hung_utilisation: float = 0.05
    """A kernel runs nearly always while an LLM engine works: below this share it does not."""
    hung_seconds: float = 60.0
    """Utilisation below the share with requests waiting, for so long: the engine hangs; more of it would not help."""
    curve_memory_seconds: float = 21600.0
    """What was seen of lateness so long ago counts 1/e: six hours, in which a day's loads are met."""
    curve_young_seconds: float = 300.0
    """The same at the start, growing by half of the age: the first minutes rest on prices that are still being learned."""
    curve_mix: float = 2.0
    """A mean prompt so many times as long, or as short, is another mix, of which the curve says little."""
    curve_mix_keeps: float = 0.1
    """So much of what was seen counts when the mix has become another one."""
    curve_weight: float = 30.0
    """Most that the requests of one tick weigh: late ones come together, so that many at once say little more than some."""
    curve_full_spread: float = 0.15
    """Deviation with which the load that makes everything late is 1, before anything was seen: how far prices are off."""
    curve_steepness: float = 10.0
    """How suddenly lateness comes, where a prompt takes as long as the objective: by a factor of e per tenth of a load."""
    curve_floor: float = 0.001
    """Share that is late at any load, before anything was seen."""
    curve_steepness_least: float = 6.0
    """For prompts longer than the objective."""
    curve_steepness_most: float = 40.0
    """For prompts that take no time against it: then the last tenth of the load counts."""
    settled_queue: float = 0.5
    """A queue of more than this share of the objective is left over from something: lateness then says nothing of the load."""
    load_memory_seconds: float = 600.0
    """The loads of so long are kept, for means of the last minutes."""
    budget_seconds: float = 3600.0
    """The share of late requests is taken over about an hour of usual traffic: what a user notices, and soon enough to act on."""
    budget_aim: float = 0.8
    """Share of the allowed lateness that is aimed at: what is left is for what nobody foresees."""
    budget_least: float = 0.3
    """Least share of the allowed lateness that replicas are counted for, however much of it was used up."""
    budget_spend: float = 1.0
    """While all of the budget is left, so many times what is allowed may be late beyond it."""
    price_rise: float = 0.7
    """Most that lateness gets dearer while too much is late, as a power of e: about twice."""
    forecast_error_most: float = 1.0
    """Largest relative error that one forecast is charged with: a burst is the reserve's business."""
    forecast_error_counted: float = 0.1
    """Largest deviation of the load, relative, that replicas are kept for."""
    forecast_memory_seconds: float = 1800.0
    """Errors of forecasts so long ago count 1/e."""
    give_back_seconds: float = 600.0
    """Replicas that nothing could place for so long are taken back, and reported as unmet."""

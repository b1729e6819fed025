"""One object within one tick: what was known of it and what was decided."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from autoscaler.api.resource import InferenceAutoscaler, Target
from autoscaler.law.decide import Decision, TargetState
from autoscaler.law.inputs import Observation
from autoscaler.observation.cluster.objects import PodView
from autoscaler.observation.cluster.workloads import Workload
from autoscaler.tick.memory import Memory


@dataclass(slots=True)
class Outcome:
    """One object within one tick."""

    target: Target
    resource: InferenceAutoscaler
    memory: Memory
    pods: list[PodView]
    workload: Workload
    observation: Observation
    before: TargetState
    decision: Decision
    in_flight: dict[str, float]
    unknown_capacity: str = ""
    scrape_seconds: float = 0.0
    """Between two scrapes of its pods; 0: not known."""
    scrape_age_seconds: float = 0.0
    """Of the pod that was scraped the longest ago."""
    silent: bool = False
    """Whether a pod that should report was not scraped lately."""
    absent: frozenset[str] = frozenset()
    """Names of metrics that none of its pods exports."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Signals whose query Prometheus cannot read, and what it says."""
    rival: str = ""
    """Who else scales the target."""
    yields: bool = False
    """Another one undoes every change: nothing is written for a while."""

    @property
    def acts(self) -> bool:
        """Whether what was decided is to be carried out."""
        return not (self.target.advisory or self.rival or self.yields)

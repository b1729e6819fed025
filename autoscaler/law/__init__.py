"""How many replicas: pure functions from a spec, a state and an observation to a decision, no clock and no I/O."""

"""From tokens to replicas: what a token costs, how much work arrives, how many replicas it takes."""

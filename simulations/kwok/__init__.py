"""A real control plane with KWOK nodes, started and stopped for tests, benchmarks and the demo."""

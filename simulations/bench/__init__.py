"""Benchmarks that print: latency, throughput, memory and the time of one round."""

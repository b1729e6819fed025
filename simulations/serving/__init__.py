"""Inference serving in virtual time: replicas with continuous batching, traces, autoscaling laws and the arena that compares them."""

"""Shared core of Headroom: names, units, the fleet model, Kubernetes and Prometheus access, settings, logs."""

__version__ = "0.1.0"

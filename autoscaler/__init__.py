"""The autoscaler: queue depth, work and GPU utilisation in, replicas out."""

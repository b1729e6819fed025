"""Autoscaling laws, each as its documentation states it: a view of the world in, wanted replicas out."""

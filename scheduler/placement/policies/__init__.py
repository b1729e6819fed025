"""Placement policies by name: each gives a cost to a pod on a row of the fleet."""

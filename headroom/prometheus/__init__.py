"""Queries to Prometheus: the one importer of its client."""

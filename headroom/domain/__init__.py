"""Pods, nodes, cards and requests as values: pure, read off the wire, said in GPU terms."""

"""Simulations: the daemons' own decision code on traces and on a real control plane."""

"""The published comparison: each law on each load, tuned, kept in files, printed as tables."""

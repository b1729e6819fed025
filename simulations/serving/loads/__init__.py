"""Requests over time: public traces and seeded patterns."""

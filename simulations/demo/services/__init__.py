"""The demo's second chapter: services under load, scaled by Headroom and by its rivals."""

"""The demo on a real control plane with KWOK nodes."""

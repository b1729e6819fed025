"""Whose process, whose device: pods, cgroups, and what kubelet handed out."""

"""The published placement experiment and its variants: pod lists replayed against placement policies."""

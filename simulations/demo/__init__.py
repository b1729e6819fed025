"""`headroom demo`: the whole product on a simulated cluster or a real control plane, as one HTML page."""

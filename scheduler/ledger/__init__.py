"""Who holds which MiB of which card: pure arithmetic over the fleet, no clock and no I/O."""

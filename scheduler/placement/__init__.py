"""Which node and which card: pure decisions over the ledger's arrays, no clock and no I/O."""

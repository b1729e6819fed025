"""One replica: continuous batching on a card, with speeds per model and card."""

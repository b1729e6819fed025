"""Where there is room for pods, beyond what one look at the fleet tells: nodes open to a kind of pod, places for whole groups."""

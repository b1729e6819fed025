"""The account: GPU time, energy, carbon and money booked on pods and projects."""

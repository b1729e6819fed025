"""The replicas of one Deployment: how they start, take cards, drain, and what a scaler sees of them."""

"""What each signal asks for, and what stands between that and the outcome."""

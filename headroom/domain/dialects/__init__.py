"""What pods ask in the words of each scheduler: a file a family, and one table of them all. Pure."""

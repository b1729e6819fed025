"""What a target taught the law: needs of the last minutes, gaps between them, bursts, start-up times."""

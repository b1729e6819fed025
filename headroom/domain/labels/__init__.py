"""What the labels of a node tell: its own facts, and its cards where nothing better describes them."""

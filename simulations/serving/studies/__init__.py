"""Studies of one question each, with a command and a table: waking from zero, and mixes of cards with prices."""

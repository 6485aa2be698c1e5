"""One round from its first tick to its last: who learns what from whom, and when."""

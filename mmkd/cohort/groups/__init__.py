"""Peers whose students share one recipe, and the ways to train them side by side."""

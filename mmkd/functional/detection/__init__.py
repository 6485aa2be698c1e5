"""Boxes, their fusion, and losses of detectors that predict a box at every place."""

"""Metrics of peers from their predictions on labelled samples."""

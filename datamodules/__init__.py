"""Concrete data sets, one file each; outside the wheel."""

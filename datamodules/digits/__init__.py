"""Handwritten, spoken and typed digits, as data of peers that see, hear and read."""

from datamodules.digits.trimodal import TrimodalDigits

__all__ = ["TrimodalDigits"]

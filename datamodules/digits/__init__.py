"""Digits that are seen, heard and read: handwritten, spoken and spelt out."""

from datamodules.digits.trimodal import TrimodalDigits

__all__ = ["TrimodalDigits"]

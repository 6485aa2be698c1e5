"""Emoji that peers see, hear and read: pictures of two vendors, and names in several languages."""

from datamodules.emoji.pairs import EmojiPairs

__all__ = ["EmojiPairs"]

"""Answers in, metrics out: how well peers do on labelled samples."""

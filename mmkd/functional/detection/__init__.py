"""Boxes, anchors and set prediction: tensors in, tensors out."""

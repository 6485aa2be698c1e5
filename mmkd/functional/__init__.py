"""Pure functions on tensors with a leading peer axis."""

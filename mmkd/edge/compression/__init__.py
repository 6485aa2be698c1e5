"""Compression: students made smaller for a device, alone or with distillation."""

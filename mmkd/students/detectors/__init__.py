"""Networks that detect objects: FCOS, which trains, and torchvision's own, which only answer."""

"""Augmentations, one file a modality: samples as they may also have been, while students learn."""

from mmkd.augmentation.base import Augmentation
from mmkd.augmentation.images import Affine, RandAugment
from mmkd.augmentation.motions import Jitter, Rotation
from mmkd.augmentation.sounds import Masks, Noise, Warp
from mmkd.augmentation.texts import TokenDropout, Typos

__all__ = [
    "Affine",
    "Augmentation",
    "Jitter",
    "Masks",
    "Noise",
    "RandAugment",
    "Rotation",
    "TokenDropout",
    "Typos",
    "Warp",
]

"""Anchors of the places of feature maps, a stride apart in frames of any size."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, cat
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList


class Anchors(AnchorGenerator):  # type: ignore[misc]  # it has no types
    """Anchors in torchvision's form: one square a place, a stride wide, a stride apart in frames of any size.

    torchvision takes for the stride the frame's side divided by the map's, rounded down. Where strides do not
    divide the frame that is too little (7 instead of 8 for 150 pixels in 19 places), and the anchor of a
    place is the farther from what the network sees there, the farther the place is from the frame's corner.
    torchvision avoids that by padding frames, which costs time.

    Args:
        strides: of the feature maps, in pixels.
    """

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__(tuple((s,) for s in strides), ((1.0,),) * len(strides))
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Float[Tensor, "places 4"]]:
        """Corners of the anchors of all feature maps, for every frame."""
        first = feature_maps[0]
        self.set_cell_anchors(first.dtype, first.device)
        maps = [[int(side) for side in f.shape[-2:]] for f in feature_maps]
        strides = [[first.new_tensor(s), first.new_tensor(s)] for s in self.strides]
        return [cat(self.grid_anchors(maps, strides))] * len(image_list.image_sizes)

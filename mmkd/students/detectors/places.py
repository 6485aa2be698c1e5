"""Where in the frame the places of feature maps are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, cat
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList


class Anchors(AnchorGenerator):  # type: ignore[misc]  # it has no types
    """torchvision's anchors, a stride apart whatever the size of the frames.

    torchvision divides the frame's sides by those of the map, rounded down. Where strides do not divide the
    frame that is too little (7 instead of 8 for 150 pixels in 19 places), and the farther a place is, the
    farther from what it sees would be what it is to find. torchvision pads frames; that takes time.

    Args:
        strides: of the levels, in pixels.
        sizes: of each level's anchors, in pixels.
        ratios: of height to width, of each level's anchors.
    """

    def __init__(
        self,
        strides: Sequence[int],
        sizes: tuple[tuple[int, ...], ...],
        ratios: tuple[tuple[float, ...], ...],
    ) -> None:
        super().__init__(sizes, ratios)
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Corners of the anchors of all levels, for every frame."""
        first = feature_maps[0]
        self.set_cell_anchors(first.dtype, first.device)
        maps = [[int(side) for side in f.shape[-2:]] for f in feature_maps]
        strides = [[first.new_tensor(s), first.new_tensor(s)] for s in self.strides]
        return [cat(self.grid_anchors(maps, strides))] * len(image_list.image_sizes)

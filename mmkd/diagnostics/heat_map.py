"""Heat maps: a matrix of peers as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from mmkd.palette import BLUE, INK, LINE, MUTED, PAPER, VERMILION
from mmkd.types import Modality, PeerName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 5.6  # inches, as in the figures of a report, which this module may not import
"""Width of a figure in inches."""


def heat_map(
    matrix: Float[Tensor, "peers peers"],
    modalities: Mapping[PeerName, Modality],
    *,
    diverging: bool,
    label: str,
) -> Figure:
    """A picture of a matrix of peers, which are grouped by modality.

    Args:
        matrix: nan is grey.
        modalities: of the peers, in the order of the matrix.
        diverging: colours from vermilion over white (0) to blue, for influence of teachers (columns) on
            listeners (rows); otherwise from white (0) to blue (1), for agreement.
        label: of the colour scale.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    names = sorted(modalities, key=modalities.__getitem__)
    order = [list(modalities).index(name) for name in names]
    values = matrix[order][:, order].double()
    most = values[values.isfinite()].abs().max().item() if values.isfinite().any() else 0.0
    colours = LinearSegmentedColormap.from_list("", [VERMILION, PAPER, BLUE] if diverging else [PAPER, BLUE])
    low, high = (-(most or 1.0), most or 1.0) if diverging else (0.0, 1.0)
    figure = Figure(figsize=(WIDTH, 0.9 * WIDTH), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values.numpy(), cmap=colours.with_extremes(bad=LINE), vmin=low, vmax=high)
    figure.colorbar(image, ax=axes, shrink=0.8, label=label)
    places, size = range(len(names)), max(2.0, min(9.0, 180 / len(names)))
    axes.set_xticks(places, names, rotation=90, fontsize=size, color=INK, parse_math=False)
    axes.set_yticks(places, names, fontsize=size, color=INK, parse_math=False)
    axes.set(xlabel="teacher" if diverging else "", ylabel="listener" if diverging else "")
    axes.tick_params(length=0)
    axes.spines[:].set_color(MUTED)
    sorts = [modalities[name] for name in names]
    kinds = sorted(set(sorts))
    for kind in kinds[1:]:
        for draw in (axes.axhline, axes.axvline):
            draw(sorts.index(kind) - 0.5, color=MUTED, linewidth=0.8)
    above = axes.secondary_xaxis("top")
    above.set_xticks([sorts.index(k) + (sorts.count(k) - 1) / 2 for k in kinds], kinds, parse_math=False)
    above.tick_params(length=0, labelcolor=MUTED)
    above.spines[:].set_visible(False)
    return figure

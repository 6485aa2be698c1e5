"""Who owns what, as a picture: peers and classes, and some samples as students see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmkd.data.base import PeerData
from mmkd.describing.ownership import Ownership
from mmkd.palette import BLUE, INK, MUTED, PAPER
from mmkd.types import Modality, Padded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXAMPLES = 6
"""Samples of each modality that are drawn."""
NAMED = 40
"""The most peers, or classes, whose names are written."""
WIDTH = 8.0
"""Inches."""
BANDS = 256
"""Samples of sound in a frame of a spectrogram."""


def picture(data: PeerData, owned: Ownership) -> Figure:
    """A figure of who owns what, above some private samples of each modality.

    Args:
        data: whose peers are assigned.
        owned: who owns what of them.
    """
    from matplotlib.figure import Figure

    kinds = [m for m in dict.fromkeys(owned.modalities.values()) if "+" not in m]
    peers = len(owned.modalities)
    tall = [0.7 if modality == "text" else 1.5 for modality in kinds]
    above = max(2.0, min(8.0, 0.22 * peers))
    figure = Figure(figsize=(WIDTH, above + 1.0 + sum(tall)), layout="constrained", facecolor=PAPER)
    heights = [above + 1.0, *tall]
    first, *rest = figure.subfigures(1 + len(kinds), 1, height_ratios=heights, squeeze=False)[:, 0]
    left, right = first.subplots(1, 2, width_ratios=[4, 1], sharey=True)
    _classes(left, owned)
    _sizes(right, owned)
    for part, modality in zip(rest, kinds, strict=True):
        part.suptitle(modality, x=0.01, ha="left", fontsize=9, color=INK)
        for axes, (x, name) in zip(part.subplots(1, EXAMPLES), examples(data, owned, modality), strict=False):
            axes.set_title(name, fontsize=7, color=MUTED)
            draw(axes, x, data)
        for axes in part.axes:
            axes.set_axis_off()
    return figure


def _classes(axes: Axes, owned: Ownership) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    counts = torch.stack(list(owned.counts.values()))
    axes.imshow(
        counts.numpy(), cmap=LinearSegmentedColormap.from_list("", [PAPER, BLUE]), aspect="auto", vmin=0
    )
    names, classes = list(owned.counts), owned.classes
    size = max(4.0, min(8.0, 300 / max(len(names), 1)))
    if len(names) <= NAMED:
        axes.set_yticks(range(len(names)), names, fontsize=size)
    if len(classes) <= NAMED:
        turn = 90 if max(map(len, classes)) > 3 else 0
        axes.set_xticks(range(len(classes)), classes, fontsize=min(8.0, 240 / len(classes)), rotation=turn)
    if counts.numel() <= 400:
        most = float(counts.max())
        for row, own in enumerate(counts.tolist()):
            for column, count in enumerate(own):
                colour = PAPER if count > most / 2 else INK
                text = f"{count:g}" if count else ""
                axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
    axes.set_title("private samples of each class", fontsize=9, color=INK, loc="left")


def _sizes(axes: Axes, owned: Ownership) -> None:
    axes.barh(range(len(owned.samples)), list(owned.samples.values()), color=BLUE)
    axes.set_title("samples", fontsize=9, color=INK, loc="left")
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def examples(data: PeerData, owned: Ownership, modality: Modality) -> list[tuple[Any, str]]:
    """Private samples of a modality with the names of their classes, of other classes as far as there are."""
    peers = [peer for peer, own in owned.modalities.items() if own == modality and owned.samples[peer]]
    found: list[tuple[Any, str]] = []
    seen: set[int] = set()
    for peer in peers:
        y = data.reader(peer, "train").all_labels()
        if y.dim() != 1 or y.is_floating_point():
            places = list(range(min(EXAMPLES, len(y))))
        else:
            first = {int(label): i for i, label in reversed(list(enumerate(y.tolist())))}
            places = [i for label, i in sorted(first.items()) if label not in seen] or [0]
            seen |= first.keys()
        for i in places:
            batch = data.reader(peer, "train").batch(torch.tensor([i]), 0)
            known = y.dim() == 1 and not y.is_floating_point() and 0 <= int(y[i]) < len(owned.classes)
            found.append((batch.x, owned.classes[int(y[i])] if known else peer))
            if len(found) == EXAMPLES:
                return found
    return found


def draw(axes: Axes, x: Any, data: PeerData) -> None:
    """Draw a sample as students see it: image, spectrogram of a sound, text, or numbers over time."""
    view: Tensor = (x.values if isinstance(x, Padded) else x)[0]
    if view.dim() == 3 and view.shape[0] in (1, 3):
        pixels = view.float() / (255 if view.dtype == torch.uint8 else 1)
        axes.imshow(pixels.permute(1, 2, 0).clamp(0, 1).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    elif not view.is_floating_point():
        axes.text(0.5, 0.5, data.text_of(view), ha="center", va="center", fontsize=7, wrap=True, color=INK)
    elif view.dim() == 1 and len(view) >= 2 * BANDS:
        window = torch.hann_window(BANDS)
        power = torch.stft(view, BANDS, BANDS // 2, window=window, return_complex=True).abs().square()
        axes.imshow((power + 1e-6).log().numpy(), origin="lower", aspect="auto", cmap="magma")
    else:
        axes.plot(view.reshape(-1, view.shape[-1]).T.numpy(), linewidth=0.7)

"""What was found about policies of offloading: for a terminal, as a table, and as a picture."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd.edge.comparing import BUDGETS, Compared
from mmkd.files import replacing
from mmkd.palette import BLACK, DISTINCT, GREY, LINE, PAPER

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def table(found: Compared) -> str:
    """What was found, for a terminal."""
    lines = [
        f"{len(found.devices)} devices are right about {found.alone:.1%} alone, and"
        f" {', '.join(found.remote)} about {found.asked:.1%}; asking about one costs"
        f" {found.whole:,.0f} bytes.",
        f"Calibration error of the devices: {found.error[0]:.3f}, with temperatures {found.error[1]:.3f}.",
        *(
            f"One threshold for {budget:.0%} of all requests lets {total:.1%} through ({plain:.1%} without"
            f" temperatures); devices' own shares differ from it by {100 * away:.0f} points."
            for budget, (total, away, plain) in found.hit.items()
        ),
        "",
        f"{'Policy':16}{'area':>8}{'of oracle':>11}"
        + "".join(f"{f'{b:.0%} asked':>11}" for b in BUDGETS)
        + f"{'area (bytes)':>14}"
        + "".join(f"{f'{b:.0%} bytes':>11}" for b in BUDGETS),
    ]
    oracle, random = found.requests["oracle"].area, found.requests["random"].area
    for name, curve in found.requests.items():
        part = (curve.area - random) / (oracle - random) if oracle > random else 0.0
        other = found.bytes[name]
        lines.append(
            f"{name:16}{100 * (found.alone + curve.area):8.1f}{part:11.0%}"
            + "".join(f"{100 * (found.alone + curve.at(b)):11.1f}" for b in BUDGETS)
            + f"{100 * (found.alone + other.area):14.1f}"
            + "".join(f"{100 * (found.alone + other.at(b)):11.1f}" for b in BUDGETS)
        )
    return "\n".join(lines)


def write(found: Compared, folder: Path) -> None:
    """Write the curves as a table, ``offloading.csv``, and as a picture, ``offloading.png``."""
    with replacing(folder / "offloading.csv") as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["policy", "of", "spent", "accuracy"])
        for of, curves in (("requests", found.requests), ("bytes", found.bytes)):
            for name, curve in curves.items():
                for percent in range(101):
                    won = found.alone + curve.at(percent / 100)
                    writer.writerow([name, of, percent / 100, f"{won:.6f}"])
    with replacing(folder / "offloading.png") as part:
        picture(found).savefig(part, format="png", dpi=150)


def picture(found: Compared) -> Figure:
    """Accuracy against the share of requests that others answer, and against the share of bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained", facecolor=PAPER)
    for axes, (of, curves) in zip(
        figure.subplots(1, 2, sharey=True),
        (("requests", found.requests), ("bytes", found.bytes)),
        strict=True,
    ):
        colours = iter(DISTINCT)
        for name, curve in curves.items():
            bound = name in ("random", "oracle")
            colour = (GREY if name == "random" else BLACK) if bound else next(colours)
            at = [percent / 100 for percent in range(101)]
            axes.plot(
                [100 * share for share in at],
                [100 * (found.alone + curve.at(share)) for share in at],
                color=colour,
                linestyle=":" if bound else "-",
                linewidth=1.6,
                label=name,
            )
        axes.set_xlabel(f"{of} of asking about everything (%)")
        axes.grid(color=LINE, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("test samples that are answered rightly (%)")
    figure.axes[1].legend(frameon=False, fontsize=8)
    return figure

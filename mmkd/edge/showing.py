"""What was found about policies of offloading: for a terminal, as tables, and as a picture."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from mmkd.edge.comparing import Compared
from mmkd.files import replacing
from mmkd.palette import BLACK, DISTINCT, GREY, LINE, PAPER
from mmkd.tables import write_rows
from mmkd.tradeoff.pareto import spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.1, 0.2, 0.5)
"""Of the cost of asking about everything, for which accuracies are said."""
SAID = {"requests": "requests", "bytes": "bytes", "seconds": "latency"}
"""What a unit of cost is called."""
CURVES = ("policy", "of", "share", "spent", "accuracy")
"""First row of ``offloading.csv``; ``spent`` is a share, bytes or seconds, mean over all requests."""
BUDGETS = ("budget", "way", "spent", "asked", "accuracy", "device", "threshold")
"""First row of ``budgets.csv``; a device asks below its threshold of the greatest probability."""


def table(found: Compared) -> str:
    """What was found, for a terminal."""
    whole = found.whole
    lines = [
        f"{len(found.devices)} devices are right about {found.alone:.1%} alone, and"
        f" {', '.join(found.remote)} about {found.asked:.1%}.",
        f"A device answers in {_time(found.seconds)}; asking takes {_time(whole['seconds'])} more and"
        f" {whole['bytes']:,.0f} bytes.",
        f"Calibration error of the devices: {found.error[0]:.3f}, with temperatures {found.error[1]:.3f}.",
    ]
    for unit, curves in found.curves.items():
        lines += ["", f"{f'Accuracy by {SAID[unit]}':24}{'area':>8}{'of oracle':>11}"]
        lines[-1] += "".join(f"{f'{share:.0%}':>8}" for share in SHARES)
        oracle, random = curves["oracle"].area, curves["random"].area
        for name, curve in curves.items():
            part = (curve.area - random) / (oracle - random) if oracle > random else 0.0
            lines.append(
                f"{name:24}{100 * (found.alone + curve.area):8.1f}{part:11.0%}"
                + "".join(f"{100 * (found.alone + curve.at(share)):8.1f}" for share in SHARES)
            )
    return "\n".join([*lines, *_budgets(found)])


def _budgets(found: Compared) -> list[str]:
    """What became of each budget."""
    lines = []
    for given in dict.fromkeys(kept.budget for kept in found.kept):
        if given.amount == 0:
            lines += ["", f"A budget of {given.said}: nobody is asked, and devices answer alone."]
            continue
        lines += ["", f"{f'A budget of {given.said} a request':36}{'spent':>10}{'asked':>8}{'accuracy':>10}"]
        lines[-1] += f"{'devices are off by':>20}"
        lines += [
            f"{kept.way:36}{_amount(given.unit, kept.spent):>10}{kept.asked:8.1%}{100 * kept.accuracy:10.1f}"
            f"{_amount(given.unit, kept.away):>20}"
            for kept in found.kept
            if kept.budget == given
        ]
    return lines


def _amount(unit: str, amount: float) -> str:
    if unit == "requests":
        return f"{amount:.1%}"
    return f"{amount:,.0f} B" if unit == "bytes" else _time(amount)


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def write(found: Compared, folder: Path) -> None:
    """Write curves, ``offloading.csv``, thresholds, ``budgets.csv``, and a picture, ``offloading.png``."""
    spent = [
        [
            name,
            unit,
            percent / 100,
            f"{whole * percent / 100:.6g}",
            f"{found.alone + curve.at(percent / 100):.6f}",
        ]
        for unit, whole in found.whole.items()
        for name, curve in found.curves[unit].items()
        for percent in range(101)
    ]
    thresholds = [
        [
            kept.budget.said,
            kept.way,
            f"{kept.spent:.6g}",
            f"{kept.asked:.6f}",
            f"{kept.accuracy:.6f}",
            device,
            f"{at:.6f}",
        ]
        for kept in found.kept
        for device, at in zip(found.devices, kept.thresholds, strict=True)
    ]
    for name, head, rows in (("offloading", CURVES, spent), ("budgets", BUDGETS, thresholds)):
        with replacing(folder / f"{name}.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
            write_rows(file, [head, *rows])
    with replacing(folder / "offloading.png") as part:
        picture(found).savefig(part, format="png", dpi=150)


def picture(*runs: Compared) -> Figure:
    """Accuracy against the share of requests and of bytes, and against the mean latency of a request.

    Of several runs, which differ in their seed, means are drawn, and intervals around them (``Spread``).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained", facecolor=PAPER)
    shares = [percent / 100 for percent in range(101)]
    whole = {unit: fmean(run.whole[unit] for run in runs) for unit in SAID}
    scales = {
        "requests": (0.0, 100.0, "requests that are asked about (%)"),
        "bytes": (0.0, whole["bytes"], "bytes a request"),
        "seconds": (
            1000 * fmean(r.seconds for r in runs),
            1000 * whole["seconds"],
            "latency of a request (ms, mean)",
        ),
    }
    for axes, (unit, (start, width, label)) in zip(
        figure.subplots(1, 3, sharey=True), scales.items(), strict=True
    ):
        colours = iter(DISTINCT)
        for name in runs[0].curves[unit]:
            bound = name in ("random", "oracle")
            colour = (GREY if name == "random" else BLACK) if bound else next(colours)
            spent = [start + width * share for share in shares]
            right = [
                spread(100 * (r.alone + r.curves[unit][name].at(share)) for r in runs) for share in shares
            ]
            means, style = [at.mean for at in right], ":" if bound else "-"
            axes.plot(spent, means, color=colour, linestyle=style, linewidth=1.6, label=name)
            if len(runs) > 1 and name in ("random", "max probability"):  # those of all would hide one another
                low, high = zip(*(at.interval() for at in right), strict=True)
                axes.fill_between(spent, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel(label)
        axes.grid(color=LINE, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("test samples that are answered rightly (%)")
    figure.axes[2].legend(frameon=False, fontsize=8)
    return figure

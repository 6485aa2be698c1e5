"""A camera's detector as files for a device, and what cameras win by asking another about frames.

    python scripts/bench/frames.py RUN --device cameras/0 --student novices/0 --to cameras/0

RUN is the folder of a run of detectors. The student of one peer is written in floats and in 8 bits,
calibrated on its validation frames, and judged again from the files, on its test frames. Then all devices
ask: a frame's doubt is the number of errors that its detector expects (``expected_errors``), what asking wins
is the number of errors that it spares: missed cars and false ones, at an IoU and a score of 0.5. Beside the
doubt stands a regression that validation frames have taught what is won. ``frames.csv`` has the curves.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkd.cost.footprint import footprint
from mmkd.edge import Graph, export
from mmkd.edge.formats import FORMATS
from mmkd.edge.links import link
from mmkd.edge.trained import Trained, trained
from mmkd.evaluation.precision import Detections, errors
from mmkd.functional.detection.doubt import expected_errors
from mmkd.functional.offloading import Curve, budget_threshold, offloading_curve
from mmkd.tables import write_rows

BOX = 24
"""Bytes of a detection in an answer: four corners, a score and a class."""
SHARES = (0.0, 0.1, 0.2, 0.5, 1.0)


class Frames(NamedTuple):
    """Frames of all devices, and what is said of them."""

    own: Tensor  # detections of the devices, [frames, slots, 6]
    other: Tensor  # of who is asked
    y: Tensor
    won: Tensor  # errors that asking spares, below 0 where it makes some

    @property
    def alone(self) -> float:
        """Errors a frame of devices that ask nobody."""
        return float(errors(self.own, self.y).double().mean())


def read(run: Trained, peer: str, split: str) -> tuple[Tensor, Tensor]:
    """Frames of a camera, and the cars in them."""
    reader = run.data.reader(peer, split)
    batch = reader.batch(torch.arange(len(reader)), 0)
    assert isinstance(batch.x, Tensor)
    assert batch.y is not None
    return batch.x, batch.y


@torch.no_grad()
def said(student: Any, x: Tensor) -> Tensor:
    """Detections of frames."""
    return torch.cat([student.predict(part).boxes for part in x.split(16)])


def frames(run: Trained, own_of: dict[str, Any], asked: Any, split: str) -> Frames:
    """The frames of all devices, which are sent to one peer."""
    parts = []
    for device, student in own_of.items():
        x, y = read(run, device, split)
        parts.append((said(student, x), said(asked, x), y))
    own, other, y = (torch.cat(part) for part in zip(*parts, strict=True))
    return Frames(own, other, y, (errors(own, y) - errors(other, y)).double())


def precise(found: Tensor, y: Tensor) -> dict[str, float]:
    """Average precision, precision and recall."""
    metrics = Detections()
    metrics.update(["it"], found[None], y)
    return metrics.compute()["it"]


def features(found: Tensor) -> Tensor:
    """What a device knows of its own detections."""
    scores = found[..., 4].double()
    several = [expected_errors(scores), (scores >= 0.5).sum(-1), scores.sum(-1), scores.square().sum(-1)]
    return torch.stack([one.double() for one in several], -1)


def learned(val: Frames, test: Frames) -> Tensor:
    """What is won by asking, as validation frames teach it."""
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(features(val.own).numpy(), val.won.numpy())
    return torch.from_numpy(model.predict(features(test.own).numpy()))


def exported(run: Trained, student: Any, device: str, folder: Path) -> None:
    """Write the student in floats and 8 bits, and print how precise each is."""
    (x, y), (calibration, _) = read(run, device, "test"), read(run, device, "val")
    formats = ["onnx", "int8"]
    done = export(student, x[:64], folder, formats=formats, calibration=calibration[:64], classes=["car"])
    print(f"{device}, {len(x)} test frames: student {precise(said(student, x), y)}")
    arguments = Graph(student).arguments(x)
    for name in formats:
        run_file = FORMATS[name].load(folder / FORMATS[name].file)
        parts = [run_file((part,))[0] for part in arguments[0].split(16)]
        print(f"{name}: {done.size[name]:,} bytes, differs by {done.parity[name]:.1e}, {done.measured[name]}")
        print(f"  {precise(torch.cat(parts), y)}", flush=True)


def line(name: str, curve: Curve, test: Frames, wants: Tensor) -> str:
    """A row of the table: errors a frame by share of frames asked, and average precision at a fifth."""
    cells = [f"{test.alone - curve.at(share):.2f}" for share in SHARES]
    asks = wants > budget_threshold(wants, torch.ones(len(wants)), 0.2)
    both = torch.where(asks[:, None, None], test.other, test.own)
    cells += [f"{test.alone - curve.area:.2f}", f"{precise(both, test.y)['map50']:.3f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Export, ask, write and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--write", default="cameras/0")
    parser.add_argument("--device", nargs="+", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument(
        "--student", help="of this peer is the student of all devices; each has its own, else"
    )
    parser.add_argument("--link", default="4g")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = trained(options.run, None, [])
    asked = run.student(options.to)
    own = {peer: run.student(options.student or peer) for peer in options.device}
    exported(run, run.student(options.write), options.write, options.run / "export" / "camera")
    val, test = (frames(run, own, asked, s) for s in ("val", "test"))
    one = read(run, options.device[0], "test")[0][:1]
    for peer, student in {**own, f"asked {options.to}": asked}.items():
        found = footprint(student, one)
        print(f"{peer}: {found.parameters:,} parameters, {found.milliseconds:.1f} ms a frame")
    boxes = float((test.other[..., 5] >= 0).sum(-1).double().mean())
    seconds = link(options.link).seconds(one.nbytes, BOX * boxes)
    print(
        f"{one.nbytes:,} bytes a frame, {BOX * boxes:,.0f} an answer; {options.link}: {1000 * seconds:.1f} ms"
    )
    print(f"alone {precise(test.own, test.y)}\nasked {precise(test.other, test.y)}")
    level = torch.ones(len(test.y), dtype=torch.float64)
    wants = {
        "expected errors": expected_errors(test.own[..., 4].double()),
        "learned": learned(val, test),
        "random": torch.zeros(len(level), dtype=torch.float64),
        "oracle": test.won,
    }
    curves = {name: offloading_curve(want, test.won, level) for name, want in wants.items()}
    print(f"{len(level)} test frames; errors a frame, by share asked: {SHARES}; their mean; mAP50 at 20 %")
    for name, curve in curves.items():
        print(line(name, curve, test, wants[name]))
    doubt = expected_errors(val.own[..., 4].double())
    for share in (0.1, 0.2, 0.5):
        asks = wants["expected errors"] > budget_threshold(doubt, torch.ones(len(doubt)), share)
        print(
            f"a threshold for {share:.0%} of validation frames lets {float(asks.double().mean()):.1%} through"
        )
    with (options.run / "frames.csv").open("w", newline="") as file:
        write_rows(file, [["policy", "asked", "errors"]])
        for name, curve in curves.items():
            write_rows(file, ([name, p / 100, f"{test.alone - curve.at(p / 100):.4f}"] for p in range(101)))


if __name__ == "__main__":
    main()

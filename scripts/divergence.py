"""How far healthy peers stay from what counts as diverged, over all shipped methods, and how far ill ones go.

    python scripts/divergence.py [WORD]    # only the methods whose names contain the word

Runs each file of ``configs/method`` for two rounds with the peers and data that
``tests/integration/test_configs.py`` runs it with, and prints the greatest norm of a peer's weights in
running norms (``mmkd/cohort/divergence.py``); then for short rounds in which one peer's learning rate is a
million times as great, and prints at which ratio that peer is found. Takes twenty minutes on one core.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from mmkd.__main__ import main  # noqa: E402  # the tests are beside this folder
from mmkd.cohort.cohort import Cohort  # noqa: E402  # as above
from mmkd.cohort.divergence import LEAP, Divergence  # noqa: E402  # as above
from scripts.fuzz_configs import car_park  # noqa: E402  # as above
from tests.integration.test_configs import FEW_FRAMES, ONE_BATCH, RUNS, short  # noqa: E402  # as above

CONFIGS = ROOT / "configs"
FACTOR = 1e6
"""How many times as great the learning rate of an ill peer is."""


class Seen:
    """The greatest norm of each peer, in its running norms, of all looks at its weights."""

    def __init__(self, ill: bool) -> None:
        self.ratios: dict[str, float] = {}
        self.sick, self._ill = "", ill
        self._wrong, self._begin = Divergence._wrong, Cohort.on_train_start

    def __enter__(self) -> Seen:
        seen = self

        def wrong(self: Divergence, name: str, norm: float) -> str | None:
            ratio = norm / self._running.get(name, float("inf"))
            seen.ratios[name] = max(seen.ratios.get(name, 0.0), ratio)
            return seen._wrong(self, name, norm)

        def begin(self: Cohort) -> None:
            seen._begin(self)
            if seen._ill:
                seen.sick = self.names[len(self.names) // 2]
                group, row = self.axis.locate(seen.sick)
                for part in group.optimizers()[row].param_groups:
                    part["lr"] *= FACTOR

        Divergence._wrong, Cohort.on_train_start = wrong, begin  # type: ignore[method-assign]  # put back below
        return self

    def __exit__(self, *error: Any) -> None:
        Divergence._wrong, Cohort.on_train_start = self._wrong, self._begin  # type: ignore[method-assign]  # as they were


def run(files: dict[str, str], ill: bool, folder: Path) -> Seen:
    """One of the runs, for two rounds, or for two of at most two local steps with an ill peer."""
    cameras = files["data"] == "cameras"
    settings = [setting for setting in ONE_BATCH if "limit_train" not in setting]
    settings += [f"--recorder.folder={folder}", "--model.vectorize=always"]
    settings += FEW_FRAMES if cameras else [f"--data.init_args.cache={ROOT / '.cache' / 'digits'}"]
    settings = [s for s in settings if files["data"].startswith("digits") or "cache" not in s]
    if ill or cameras:
        settings.append(f"--decentralized.schedule={short(files['method'])}")
    settings.append("--decentralized.schedule.rounds_per_epoch=2")
    settings += [] if files["method"] == "isolated" else ["--trainer.limit_val_batches=0"]  # looked at there
    if files["method"] == "fedmd" and ill:
        settings.append("--decentralized.knowledge.init_args.digest=1")
    with Seen(ill) as seen:
        main(["fit", *(f"--config={CONFIGS / part / name}.yaml" for part, name in files.items()), *settings])
    return seen


if __name__ == "__main__":
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    greatest, least = 0.0, float("inf")
    with tempfile.TemporaryDirectory() as folder:
        car_park(Path(folder))
        os.chdir(folder)
        for files in RUNS:
            if word not in files["method"]:
                continue
            healthy, ill = run(files, False, Path(folder)), run(files, True, Path(folder))
            found = ill.ratios.get(ill.sick, 0.0)
            greatest, least = max(greatest, *healthy.ratios.values()), min(least, found)
            most = max(healthy.ratios.values(), default=0.0)
            print(
                f"{files['method']:20} {files['peers']:14} healthy {most:8.3f}   ill {found:12.4g}",
                flush=True,
            )
    print(f"healthy at most {greatest:.3f}, ill at least {least:.4g}; the bound is {LEAP:.0f}")

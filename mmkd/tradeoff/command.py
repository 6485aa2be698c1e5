"""The commands ``mmkd tradeoff``, ``mmkd tune`` and ``mmkd report``, which import slow libraries late."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmkd.errors import ConfigError


def run(argv: list[str]) -> int:
    """Run, tune or report a study; returns the exit status of the process."""
    parser = argparse.ArgumentParser(prog="mmkd", description="Trade-off studies.")
    commands = parser.add_subparsers(dest="command", required=True)
    tradeoff = commands.add_parser("tradeoff", help="run every method of a study with every seed")
    tradeoff.add_argument("study", type=Path, help="a study file, such as configs/study/quickstart.yaml")
    tradeoff.add_argument(
        "--out", type=Path, required=True, help="results folder; an unfinished study goes on"
    )
    tradeoff.add_argument("--only", nargs="*", metavar="METHOD", help="run these methods alone")
    tradeoff.add_argument("--seeds", nargs="*", type=int, help="run these seeds instead of the study's")
    tradeoff.add_argument("--jobs", type=int, default=1, help="runs side by side, one process each")
    tradeoff.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings for every run, as of mmkd fit"
    )
    tune = commands.add_parser("tune", help="try settings for every method of a study, on validation samples")
    tune.add_argument("study", type=Path)
    tune.add_argument("--out", type=Path, required=True, help="folder of trials.csv and tuned.yaml")
    tune.add_argument("--only", nargs="*", metavar="METHOD", help="tune these methods alone")
    tune.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings for every trial")
    report = commands.add_parser("report", help="draw a study again from its saved results")
    report.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    # What is not there is said before imports that take seconds.
    if options.command != "report" and not options.study.is_file():
        raise ConfigError(f"there is no study file {options.study}")
    if options.command == "report" and not (options.folder / "study.json").is_file():
        raise ConfigError(
            f"{options.folder} holds no study (no study.json); give the --out folder of mmkd tradeoff"
        )
    if options.command == "tune":
        from mmkd.tradeoff.study import Study
        from mmkd.tradeoff.tuning import tune as search

        path = search(Study.read(options.study), options.out, only=options.only, settings=options.set)
        print(f"best settings: {path}", file=sys.stderr)
        return 0
    from mmkd.tradeoff.report.report import report as draw

    if options.command == "report":
        page = draw(options.folder)
    else:
        from mmkd.tradeoff.study import Study

        study = Study.read(options.study)
        study.run(
            options.out,
            command="mmkd " + " ".join(argv),
            only=options.only,
            seeds=options.seeds,
            settings=options.set,
            jobs=options.jobs,
        )
        page = draw(options.out)
    print(f"report: {page}", file=sys.stderr)
    return 0

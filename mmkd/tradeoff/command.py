"""The commands ``mmkd tradeoff``, ``mmkd tune`` and ``mmkd report``, which import slow libraries late."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmkd.errors import ConfigError
from mmkd.tradeoff.stopping import stoppable


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
        "--redo",
        action="append",
        default=[],
        metavar="METHOD",
        help="do changed runs of a method again and keep the old ones beside them; repeatable, or 'all'",
    )
    tradeoff.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings for every run, as of mmkd fit"
    )
    tune = commands.add_parser("tune", help="try settings for every method of a study, on validation samples")
    tune.add_argument("study", type=Path)
    tune.add_argument("--out", type=Path, required=True, help="folder of trials.csv and tuned.yaml")
    tune.add_argument("--only", nargs="*", metavar="METHOD", help="tune these methods alone")
    tune.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings for every trial")
    report = commands.add_parser("report", help="draw a study again from its saved results, or compare two")
    report.add_argument("folder", type=Path)
    report.add_argument("other", type=Path, nargs="?", help="another study, set beside the first one")
    options = parser.parse_args(argv)
    # What is not there is said before imports that take seconds.
    if options.command != "report" and not options.study.is_file():
        raise ConfigError(f"there is no study file {options.study}")
    if options.command == "report":
        for folder in filter(None, (options.folder, options.other)):
            if not (folder / "study.json").is_file():
                raise ConfigError(
                    f"{folder} holds no study (no study.json); give the --out folder of mmkd tradeoff"
                )
        return _report(options)
    return stoppable(lambda: _tune(options) if options.command == "tune" else _tradeoff(options, argv))


def _report(options: argparse.Namespace) -> int:
    if options.other is None:
        from mmkd.tradeoff.report.report import report as draw

        page = draw(options.folder)
    else:
        from mmkd.tradeoff.report.comparison import compare

        page = compare(options.folder, options.other)
    print(f"report: {page}", file=sys.stderr)
    return 0


def _tune(options: argparse.Namespace) -> int:
    from mmkd.tradeoff.study import Study
    from mmkd.tradeoff.tuning import tune

    path = tune(Study.read(options.study), options.out, only=options.only, settings=options.set)
    print(f"best settings: {path}", file=sys.stderr)
    return 0


def _tradeoff(options: argparse.Namespace, argv: list[str]) -> int:
    """Run a study and draw it; a status of 1 says that a run has ended by an error."""
    from mmkd.tradeoff.report.report import report
    from mmkd.tradeoff.running import run
    from mmkd.tradeoff.study import Study

    whole = run(
        Study.read(options.study),
        options.out,
        command="mmkd " + " ".join(argv),
        only=options.only,
        seeds=options.seeds,
        settings=options.set,
        jobs=options.jobs,
        redo=options.redo,
    )
    try:
        print(f"report: {report(options.out)}", file=sys.stderr)
    except ConfigError as error:
        if whole:
            raise
        print(f"mmkd: {error}", file=sys.stderr)
    return 0 if whole else 1

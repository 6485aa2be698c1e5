"""The commands ``mmkd tradeoff``, ``mmkd tune`` and ``mmkd report``, which import slow libraries late."""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from mmkd.errors import ConfigError
from mmkd.launch.cluster import Cluster, joined
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
    _add_engine(tradeoff, "runs")
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
    _add_engine(tune, "trials")
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
    do = _tune if options.command == "tune" else _tradeoff

    def work() -> int:
        with _engine(options) as cluster:
            return do(options, argv, cluster)

    return stoppable(work)


def _add_engine(parser: argparse.ArgumentParser, what: str) -> None:
    """Options that say where runs are made."""
    parser.add_argument(
        "--jobs",
        type=int,
        help=f"{what} side by side, one process each; 1 if left out, with Ray as many as there is room for",
    )
    parser.add_argument(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help=f"what places {what}: processes of this machine, or Ray, on all machines of a cluster",
    )
    parser.add_argument(
        "--address",
        help="of a Ray cluster that runs; RAY_ADDRESS if left out, or else this machine becomes one",
    )


def _engine(options: argparse.Namespace) -> AbstractContextManager[Cluster | None]:
    """The cluster where runs are made; none, if processes of this machine make them."""
    if options.engine == "ray":
        return joined(options.address, options.jobs, imports="mmkd.tradeoff.running")
    if options.address is not None:
        raise ConfigError("--address is that of a Ray cluster: add --engine ray")
    return nullcontext()


def _report(options: argparse.Namespace) -> int:
    if options.other is None:
        from mmkd.tradeoff.report.report import report as draw

        page = draw(options.folder)
    else:
        from mmkd.tradeoff.report.comparison import compare

        page = compare(options.folder, options.other)
    print(f"report: {page}", file=sys.stderr)
    return 0


def _tune(options: argparse.Namespace, argv: list[str], cluster: Cluster | None) -> int:
    from mmkd.tradeoff.study import Study
    from mmkd.tradeoff.tuning import tune

    path = tune(
        Study.read(options.study),
        options.out,
        only=options.only,
        settings=options.set,
        jobs=1 if options.jobs is None else options.jobs,
        cluster=cluster,
    )
    print(f"best settings: {path}", file=sys.stderr)
    return 0


def _tradeoff(options: argparse.Namespace, argv: list[str], cluster: Cluster | None) -> int:
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
        jobs=1 if options.jobs is None else options.jobs,
        cluster=cluster,
        redo=options.redo,
    )
    try:
        print(f"report: {report(options.out)}", file=sys.stderr)
    except ConfigError as error:
        if whole:
            raise
        print(f"mmkd: {error}", file=sys.stderr)
    return 0 if whole else 1

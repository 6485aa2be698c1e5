"""The commands ``mmkd peer``, ``mmkd network`` and ``mmkd launch``, which import slow libraries late."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmkd.errors import ConfigError
from mmkd.tradeoff.stopping import stoppable


def run(argv: Sequence[str]) -> int:
    """Run a process of a network, or do something with one; returns the exit status."""
    if argv[0] == "peer":
        return _peer(argv[1:])
    if argv[0] == "launch":
        return _launch(argv[1:])
    return _network(argv[1:])


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", action="append", default=[], metavar="FILE", help="as of mmkd fit")
    parser.add_argument("--study", default="network", help="name that all processes share")
    parser.add_argument(
        "--deadline", type=float, default=60.0, help="seconds that an exchange waits for others"
    )
    parser.add_argument(
        "--late",
        choices=("stop", "go_on", "asynchronous"),
        default="stop",
        help="when somebody is silent until the deadline: end the run, or take them as absent; asynchronous"
        " processes wait for nobody",
    )
    parser.add_argument(
        "--stale",
        type=int,
        default=0,
        metavar="ROUNDS",
        help="for which what somebody has said about samples is heard again while it is silent",
    )
    parser.add_argument(
        "--gather", type=float, default=300.0, help="seconds to wait for all, before training"
    )
    parser.add_argument("--keys", metavar="FOLDER", help="certificates, made by mmkd network keys")


def _peer(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mmkd peer",
        description="Train some peers of a configuration, beside processes with the others. All other options"
        " are those of mmkd fit.",
    )
    _common(parser)
    parser.add_argument("--own", nargs="+", required=True, metavar="PEER", help="peers of this process")
    parser.add_argument(
        "--listen", nargs="*", default=[], metavar="ENDPOINT", help="such as tcp/127.0.0.1:7447"
    )
    parser.add_argument("--hosts", nargs="*", default=[], metavar="ENDPOINT", help="of other processes")
    parser.add_argument("--hub", action="store_true", help="hubs are in this process, in one of all")
    parser.add_argument("--open", action="store_true", help="let anybody connect, without certificates")
    parser.add_argument(
        "--folder", type=Path, help="what this process writes to; results/STUDY/PEER if left out"
    )
    options, rest = parser.parse_known_args(argv)
    from mmkd.network import peer

    place = peer.Place(
        options.study,
        options.own,
        options.listen,
        options.hosts,
        options.hub,
        options.deadline,
        options.late,
        options.stale,
        options.gather,
        options.keys,
        options.open,
    )
    arguments = [*(f"--config={file}" for file in options.config), *rest]
    folder = options.folder or peer.default_folder(options.study, options.own)
    return stoppable(lambda: peer.run(arguments, place, folder))


def _network(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="mmkd network", description="Networks of processes.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser(
        "up",
        help="run a configuration in several processes of this machine; other options are those of mmkd fit",
    )
    _common(up)
    _divided(up)
    up.add_argument(
        "--restart", action="store_true", help="start a process that dies again, from its checkpoint"
    )
    keys = commands.add_parser("keys", help="make the certificates of a network")
    keys.add_argument("folder", type=Path, help="a new folder, with one below it for each process")
    keys.add_argument(
        "--process",
        action="append",
        nargs="+",
        required=True,
        metavar="PEER",
        help="peers of one; repeatable",
    )
    keys.add_argument("--hub", nargs="?", const="hub", metavar="NAME", help="a hub is in the first process")
    keys.add_argument(
        "--hosts", nargs="+", required=True, help="names or addresses at which processes are reached"
    )
    keys.add_argument("--days", type=int, default=365, help="that certificates last")
    status = commands.add_parser("status", help="who is there, in which round, and what each has sent")
    status.add_argument("--study", default="network")
    status.add_argument("--hosts", nargs="+", required=True, metavar="ENDPOINT", help="of a process")
    status.add_argument("--keys", metavar="FOLDER", help="certificates of a process")
    status.add_argument("--once", action="store_true", help="print one table and end")
    options, rest = parser.parse_known_args(argv)
    if options.command != "up" and rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command == "keys":
        from mmkd.network.keys import make

        for path in make(options.folder, options.process, options.hub, options.hosts, options.days):
            print(path)
        return 0
    if options.command == "status":
        from mmkd.network.status import watch

        return stoppable(lambda: watch(options.study, options.hosts, options.keys, once=options.once))
    _check(options)
    from mmkd.network import local

    return stoppable(lambda: local.up(options, rest))


def _launch(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mmkd launch",
        description="Run a configuration in several processes on the machines of a cluster, which begin again"
        " when one dies. All other options are those of mmkd fit.",
    )
    _common(parser)
    _divided(parser)
    parser.add_argument("--engine", choices=("ray",), default="ray", help="what places the processes")
    parser.add_argument(
        "--address",
        help="of a Ray cluster that runs; RAY_ADDRESS if left out, or else this machine becomes one",
    )
    parser.add_argument("--open", action="store_true", help="let anybody connect, without certificates")
    options, rest = parser.parse_known_args(argv)
    _check(options)
    from mmkd.network import placed

    return stoppable(lambda: placed.launch(options, rest))


def _divided(parser: argparse.ArgumentParser) -> None:
    """Options of a network whose peers are divided among processes."""
    parser.add_argument("--processes", type=int, default=2, help="among which the peers are divided")
    parser.add_argument("--port", type=int, default=7447, help="of the first process; the others follow")
    parser.add_argument(
        "--folder", type=Path, help="a folder for each process below it; results/STUDY if left out"
    )


def _check(options: argparse.Namespace) -> None:
    if options.processes < 1 or not 0 < options.port < 65536 - options.processes:
        raise ConfigError("--processes is at least 1, and ports are below 65536")

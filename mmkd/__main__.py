"""The entry point of the ``mmkd`` command: reads the arguments and starts a run or a study."""

from __future__ import annotations

import errno
import gc
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmkd.errors import ConfigError, DivergedError, ListedError, LostError, SilentError

if TYPE_CHECKING:
    from mmkd.cli import MmkdCLI

USAGE = """usage: mmkd COMMAND [options]

  new --from DATA                configuration files for a table or a folder of your own
  data describe -c FILE ...      who owns what, before anything trains: a table and a picture
  fit, validate, test, predict   one run, configured by LightningCLI: mmkd fit -c FILE -c FILE ...
  tradeoff STUDY --out FOLDER    every method of a study, with every seed; go on where it stopped
  tune STUDY --out FOLDER        as many trials for each method, judged on validation samples
  report FOLDER [OTHER]          draw a study again from its saved results, or set two side by side
  compress RUN --peer PEER       a trained student made smaller, alone or with distillation
  export RUN --peer PEER         a trained student as files that run without mmkd and without torch
  offload RUN --to PEER ...      what devices win by asking larger peers, by policy and budget
  serve RUN --peer PEER          answer the questions of devices
  peer --own PEER ...            some peers of a configuration, beside other processes that hold the others
  network up                     a configuration in several processes of this machine
  launch                         a configuration in several processes on the machines of a cluster

mmkd COMMAND --help lists the options; configs/README.md lists the files that ship with the repository."""
"""The text that the command prints when it is asked for help or called without arguments."""


FILES = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
"""Errors that name a file of the user's."""


AGAIN = os.EX_TEMPFAIL
"""Status of a run that ends because others are silent, or were killed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's error is one line on stderr and a status of 2.

    Where others of a network have fallen silent, or processes that did part of the work were killed, the
    status is 75: the same command may go on later.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from mmkd import __version__

        print(__version__)
        return 0
    # A user's own datamodules/foo.py is reachable as datamodules.foo.
    sys.path.insert(0, os.getcwd())
    # Lightning 2.6 uses a class that torch 2.13 renamed; the warning is of no use to users.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    from mmkd.spelling import mistake

    try:
        if (wrong := mistake(arguments)) is not None:
            raise ConfigError(wrong)
        if arguments[0] in ("peer", "network", "launch"):
            from mmkd.network import command as network

            return network.run(arguments)
        if arguments[0] in ("tradeoff", "tune", "report"):
            from mmkd.tradeoff import command

            return command.run(arguments)
        if arguments[0] in ("compress", "export", "offload", "serve"):
            from mmkd.edge import command as edge

            return edge.run(arguments)
        if arguments[0] == "data":
            from mmkd.describing import command as describing

            return describing.run(arguments[1:])
        if arguments[0] == "new":
            from mmkd.starting import command as starting

            return starting.run(arguments[1:])
        _cli()(arguments)
    except Exception as error:
        said = _cause(error)
        if said is None:
            raise
        advice = "; make room and go on, for what was whole on the disk still is" if _full(said) else ""
        told = str(said) if isinstance(said, ListedError) else " ".join(str(said).split())
        print(f"mmkd: {told}{advice}", file=sys.stderr)
        return AGAIN if isinstance(said, LostError | SilentError) else 2
    return 0


def _cli() -> type[MmkdCLI]:
    first = "mmkd.cli" not in sys.modules
    if first:
        # What imports make stays for good: looking through it for garbage takes a seventh of a start.
        gc.disable()
    try:
        from mmkd.cli import MmkdCLI
    finally:
        if first:
            gc.freeze()
            gc.enable()
    return MmkdCLI


def _cause(error: BaseException | None) -> BaseException | None:
    """The user's error behind ``error``: jsonargparse wraps what a constructor raises."""
    kinds: tuple[type[BaseException], ...] = (ConfigError, DivergedError, LostError, SilentError, *FILES)
    # Lightning takes seconds to import, and whoever has not imported it has not raised its errors.
    if (lightning := sys.modules.get("lightning.fabric.utilities.exceptions")) is not None:
        kinds += (lightning.MisconfigurationException,)
    direct = True
    while error is not None:
        # A package that is missing is what is wrong only if nobody has tried to do without it.
        if isinstance(error, kinds) or (direct and isinstance(error, ModuleNotFoundError)):
            return error
        if _full(error):
            return error
        direct = direct and error.__cause__ is not None
        error = error.__cause__ or error.__context__
    return None


def _full(error: BaseException) -> bool:
    """Whether the disk, or one's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


if __name__ == "__main__":
    sys.exit(main())

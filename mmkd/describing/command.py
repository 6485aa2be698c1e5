"""The command ``mmkd data describe``, which imports slow libraries late."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkd.errors import ConfigError


def run(argv: Sequence[str]) -> int:
    """Describe the data of a configuration, of which peers are needed and no method; returns the status."""
    parser = argparse.ArgumentParser(prog="mmkd data", description="Data of a configuration.")
    commands = parser.add_subparsers(dest="command", required=True)
    describe = commands.add_parser(
        "describe", help="who owns what: a table and a picture; other options are those of mmkd fit"
    )
    describe.add_argument(
        "-c", "--config", action="append", default=[], metavar="FILE", help="as of mmkd fit"
    )
    describe.add_argument("--out", type=Path, default=Path("results/data.png"), help="the picture's file")
    describe.add_argument("--deep", action="store_true", help="open every file, to find broken ones now")
    options, rest = parser.parse_known_args(argv)
    if not options.config and not rest:
        raise ConfigError("mmkd data describe needs data and peers: -c data.yaml -c peers.yaml")
    from mmkd.cli import MmkdCLI
    from mmkd.describing.ownership import ownership
    from mmkd.describing.picture import picture
    from mmkd.describing.table import table
    from mmkd.files import replacing

    cli: Any = MmkdCLI([*(f"--config={file}" for file in options.config), *rest], run=False, logger=False)
    data = cli.datamodule
    data.assign(*cli.model.roster)
    if options.deep:
        if not hasattr(data, "check"):
            raise ConfigError(f"{type(data).__name__} reads no files of its own: leave --deep out")
        data.check()
    data.prepare_data()
    owned = ownership(data)
    print(table(owned))
    with replacing(options.out) as part:
        picture(data, owned).savefig(part, format="png", dpi=150)
    print(f"\npicture: {options.out}")
    return 0

"""The command ``mmkd new``, which imports slow libraries late."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def run(argv: Sequence[str]) -> int:
    """Write the files of a new project, and say what to type next; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="mmkd new", description="Write configuration files that fit data of your own."
    )
    parser.add_argument(
        "--from",
        dest="data",
        type=Path,
        required=True,
        metavar="PATH",
        help="a table of samples (.csv, .parquet), or a folder with one sub-folder a class",
    )
    parser.add_argument("--out", type=Path, help="a new folder; NAME-study, if left out")
    parser.add_argument("--deep", action="store_true", help="open every file, to find broken ones now")
    options = parser.parse_args(argv)
    from mmkd.starting.files import write
    from mmkd.starting.fitting import fitting

    out = options.out or Path(f"{options.data.resolve().stem}-study")
    write(fitting(options.data, deep=options.deep), out)
    files = " ".join(f"-c {out / name}.yaml" for name in ("data", "peers", "hybrid", "trainer"))
    print(f"wrote {out}; next:\n")
    print(f"  mmkd data describe -c {out / 'data.yaml'} -c {out / 'peers.yaml'}")
    print(f"  mmkd fit {files}")
    print(f"  mmkd tradeoff {out / 'study.yaml'} --out results/{out.name}")
    return 0

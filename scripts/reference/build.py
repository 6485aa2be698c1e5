"""Build the site, and fail at every warning.

    python scripts/reference/build.py SITE [ROOT]

SITE is the folder that the site replaces, ROOT another repository than this one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from modules import PACKAGE
from pages import write_pages


def build(site: Path, root: Path) -> int:
    """Write the sources into a temporary folder, and let the generator make the site of them.

    Args:
        site: the folder of the site; what is in it is replaced.
        root: the folder of the repository.

    Returns:
        0 if there was no warning.
    """
    if site.exists() and not (site / "objects.inv").exists():
        sys.exit(f"{site} holds something else than a site; name another folder")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        config = yaml.safe_load((root / "mkdocs.yml").read_text())
        config["nav"].append({"Reference": write_pages(root, work / "docs")})
        (work / "mkdocs.yml").write_text(yaml.safe_dump(config))
        # Paths in mkdocs.yml are relative to its folder.
        (work / PACKAGE).symlink_to(root / PACKAGE)
        (work / "scripts").symlink_to(Path(__file__).parents[1])
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(command, cwd=work, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        print(done.stdout, end="")
        # The generator does not count what Griffe says of docstrings.
        if done.returncode or "griffe:" in done.stdout:
            return 1
        shutil.rmtree(site, ignore_errors=True)
        shutil.move(work / "site", site)
    return 0


if __name__ == "__main__":
    site, root = Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else Path(__file__).parents[2]
    sys.exit(build(site.resolve(), root.resolve()))

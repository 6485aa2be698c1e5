"""Files of publishers: fetched whole or not at all, and archives that are unpacked into one folder alone.

Nothing is fetched unless somebody asks for it (``download: true`` of a set), and nobody is asked twice: an
archive that already lies where it would be put is taken as it is.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from secrets import token_hex
from ssl import SSLError
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm

from mmkd.files import replacing
from mmkd.types import ConfigError

SILENCE = 60.0
"""Seconds without a byte after which a host is given up."""
_CHUNK = 1 << 20
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError)


class Archive(NamedTuple):
    """An archive as its publisher gives it."""

    url: str  # of the file itself
    top: str = ""  # folder of it that is kept; all of it, if empty
    into: str = ""  # what that is called below the folder of the set; the set's folder itself, if empty
    md5: str = ""  # as the publisher gives it; empty, where there is none
    inner: str = ""  # archive within it that holds the files, if there is one


def obtain(archive: Archive, folder: Path) -> None:
    """Put what an archive holds where a set reads it; the archive is fetched, unless it lies beside that.

    Processes that want the same wait for one another. Whoever is interrupted leaves no part of the set.

    Args:
        archive: to be fetched and unpacked.
        folder: of the set.

    Raises:
        ConfigError: the host does not give it, it is not what its publisher gave, or something is in the way.
    """
    into = folder / archive.into if archive.into else folder
    path = into.parent / unquote(PurePosixPath(urlsplit(archive.url).path).name)
    into.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(into.parent / f".{into.name}.lock"):
        if into.is_dir() and any(into.iterdir()):
            return  # another process was first, or it is the user's
        if not path.exists():
            fetch(archive.url, path, md5=archive.md5)
        elif archive.md5 and _md5(path) != archive.md5:
            raise ConfigError(f"{path} is not what {archive.url} gives (its MD5 sum is another): delete it")
        unpack(path, into, top=archive.top, inner=archive.inner)


def fetch(url: str, path: Path, *, md5: str = "") -> None:
    """Fetch a file, with a bar; what is at ``path`` is replaced once all of it is there and right.

    Args:
        url: of the file.
        path: where it goes.
        md5: its checksum in hexadecimal, as the publisher gives it; not looked at, if empty.

    Raises:
        ConfigError: the host does not answer or refuses, or its answer is cut off or another file.
    """
    digest, size = hashlib.md5(usedforsecurity=False), 0
    try:
        with (
            urlopen(Request(url, headers={"User-Agent": "mmkd"}), timeout=SILENCE) as answer,
            replacing(path) as part,
            part.open("wb") as file,
        ):
            promised = int(answer.headers.get("Content-Length") or 0)
            with tqdm(desc=path.name, total=promised or None, unit="B", unit_scale=True, leave=False) as bar:
                while piece := answer.read(_CHUNK):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    bar.update(len(piece))
            if size < promised:
                raise ConfigError(f"{url} was cut off after {size} of {promised} bytes: try again")
            if md5 and digest.hexdigest() != md5:
                raise ConfigError(
                    f"{url} gave a file with the MD5 sum {digest.hexdigest()}, not {md5}: try again, or get"
                    " it by hand"
                )
    except (URLError, HTTPException, TimeoutError, ConnectionError, SSLError) as error:
        if isinstance(error, HTTPError):  # which is an answer, too
            error.close()
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise ConfigError(f"{url} cannot be fetched ({reason}): bring {path} from elsewhere") from error


def unpack(path: Path, into: Path, *, top: str = "", inner: str = "") -> None:
    """Unpack an archive into a folder, which is there whole afterwards or not at all.

    Args:
        path: of a tar archive, compressed or not, or of a ZIP archive.
        into: the folder; it is made, and may be there if it is empty.
        top: folder of the archive that becomes ``into``; all of the archive, if empty.
        inner: archive within the archive that is unpacked in its place.

    Raises:
        ConfigError: it is no archive, is cut off, holds something outside of itself or no such folder, or
            something is in the way.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise ConfigError(f"{into} is in the way of what {path} holds: move it away")
    into.parent.mkdir(parents=True, exist_ok=True)
    here = into.parent / f"{into.name}.{token_hex(8)}.part"
    here.mkdir()
    try:
        _extract(path, here / "all")
        if inner:
            if not (here / "all" / inner).is_file():
                raise ConfigError(f"{path} does not hold {inner}: delete it, and get it again")
            _extract(here / "all" / inner, here / "inner")
        kept = here / ("inner" if inner else "all") / top
        if not kept.is_dir():
            raise ConfigError(f"{path} does not hold a folder {top}: delete it, and get it again")
        kept.replace(into)
    finally:
        shutil.rmtree(here, ignore_errors=True)


def _extract(path: Path, into: Path) -> None:
    into.mkdir()
    try:
        if zipfile.is_zipfile(path):
            _extract_zip(path, into)
        else:
            with tarfile.open(path) as tar:
                tar.extractall(into, filter="data")
                while tar.fileobj is not None and tar.fileobj.read(_CHUNK):
                    pass  # at the end gzip compares its checksum, and tarfile stops before
    except tarfile.FilterError as error:
        raise ConfigError(f"{path} would write outside of its folder ({error}): do not use it") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"{path} is cut off or no archive ({reason}): delete it, and get it again"
        ) from error


def _extract_zip(path: Path, into: Path) -> None:
    """Unlike ``extractall``, refuse names that lead outside in place of mending them."""
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            name = PurePosixPath(member.filename.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts or stat.S_ISLNK(member.external_attr >> 16):
                raise ConfigError(
                    f"{path} would write outside of its folder ('{member.filename[:80]}'): do not use it"
                )
        file.extractall(into)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

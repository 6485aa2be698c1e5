"""MM-IMDb (Arevalo et al. 2017, arXiv 1702.01992): films by their posters and plots.

The page of the set names no licence; posters and plots are of IMDb and MovieLens, and of whoever made them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from datamodules.published import Published
from mmkd.data.catalogue import PARTS, Catalogue
from mmkd.data.catalogued import CatalogueData
from mmkd.data.media import Images, Texts
from mmkd.types import ConfigError

GENRES = (
    "Film-Noir",
    "Short",
    "Sport",
    "Western",
    "Musical",
    "Animation",
    "Music",
    "History",
    "Biography",
    "War",
    "Family",
    "Fantasy",
    "Sci-Fi",
    "Mystery",
    "Documentary",
    "Horror",
    "Adventure",
    "Action",
    "Crime",
    "Thriller",
    "Romance",
    "Comedy",
    "Drama",
)
"""The 23 genres of the paper, those that few films have first."""
SPLITS = {"train": "train", "dev": "val", "test": "test"}
"""Lists of ``split.json``, and the parts that they are."""
PUBLISHED = Published(
    "MM-IMDb", "http://lisi1.unal.edu.co/mmimdb/", "split.json and the folder dataset of mmimdb.tar.gz"
)
"""Where the set comes from. It is not fetched: 8 GB over a line that nobody signs, without a checksum."""
_ID = re.compile(r"\w+")


class MmImdb(CatalogueData):
    """MM-IMDb: 25,959 films, each with its poster ("image") and its plot ("text").

    - image ``[3, size, size]`` float in 0 to 1: the poster, resized;
    - text ``[length]`` ids of tokens, 0 after the end: the longest plot; some film may have none.

    A film has several genres, and a sample one class: the first of ``genres`` that the film has. As those of
    few films come first, Drama is what is nothing else. Films of none of them are left out. Parts are the
    published ones; public samples are drawn from the published training samples.

    Args:
        folder: with ``split.json``, and ``dataset`` with ``<id>.json`` and ``<id>.jpeg`` of each film, from
            http://lisi1.unal.edu.co/mmimdb/.
        genres: the classes, in the order in which they are looked for.
        image: how posters are read; 64 pixels wide and high, if left out.
        text: how plots are read; 256 characters, if left out.
        cache: folder in which decoded files are kept.
        **kwargs: arguments of ``CatalogueData``.

    Raises:
        ConfigError: there are not two genres, or one twice; or, when the data are first read, a file is
            missing or wrong.
    """

    modalities = ("image", "text")

    def __init__(
        self,
        *,
        folder: str,
        genres: Sequence[str] = GENRES,
        image: Images | None = None,
        text: Texts | None = None,
        cache: str = ".cache/media",
        **kwargs: Any,
    ) -> None:
        self.genres = list(genres)
        if len(self.genres) < 2 or len({*self.genres}) < len(self.genres):
            raise ConfigError(f"genres are two or more names, each once, not {self.genres}")
        self.num_classes = len(self.genres)
        super().__init__(**kwargs)
        self.folder, self.cache = Path(folder), Path(cache)
        self.image, self.text = image or Images(size=64), text or Texts(length=256)

    def catalogue(self) -> Catalogue:
        """All films of the genres, in the order of the lists.

        Raises:
            ConfigError: a file is missing or wrong, or no film is of the genres.
        """
        films = [film for film in self._films() if film.y is not None]
        if not films:
            raise ConfigError(f"no film in {self.folder} is of {', '.join(self.genres)}: name other genres")
        names = [f"dataset/{film.id}.jpeg" for film in films]
        plots = [film.plot for film in films]
        stamps = PUBLISHED.stamps(self.folder, names)
        return Catalogue(
            classes=self.genres,
            y=torch.tensor([film.y for film in films]),
            views={
                "image": self.image.view(names, self.folder, stamps, self.cache),
                "text": self.text.view(plots, partial(self.rows, "public")),
            },
            shown={
                "image": torch.ones(len(films), dtype=torch.bool),
                "text": torch.tensor([bool(plot) for plot in plots]),
            },
            part=torch.tensor([film.part for film in films]),
        )

    def _films(self) -> list[_Film]:
        """All films that the lists name."""
        found, seen = [], set[str]()
        listed = self._read("split.json", PUBLISHED.content(self.folder, "split.json"))
        for name, part in SPLITS.items():
            ids = listed.get(name)
            if not isinstance(ids, list) or not ids:
                raise PUBLISHED.wrong(self.folder, "split.json", f"has no list '{name}'")
            for id_ in ids:
                if not isinstance(id_, str) or not _ID.fullmatch(id_) or id_ in seen:
                    raise PUBLISHED.wrong(
                        self.folder,
                        "split.json",
                        f"has in '{name}' {str(id_)[:40]!r}, which is no film, or twice",
                    )
                seen.add(id_)
                found.append(self._film(id_, PARTS.index(part)))
        return found

    def _film(self, id_: str, part: int) -> _Film:
        name = f"dataset/{id_}.json"
        try:
            content = (self.folder / name).read_bytes()
        except FileNotFoundError as error:
            raise PUBLISHED.missing(self.folder, name) from error
        except OSError as error:
            raise ConfigError(f"{self.folder / name} cannot be read: {error.strerror or error}") from error
        told = self._read(name, content)
        genres, plots = told.get("genres"), told.get("plot", [])
        for key, value in (("genres", genres), ("plot", plots)):
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise PUBLISHED.wrong(self.folder, name, f"has no list of texts '{key}'")
        y = next((i for i, genre in enumerate(self.genres) if genre in told["genres"]), None)
        return _Film(id_, part, y, max((plot.strip() for plot in plots), key=len, default=""))

    def _read(self, name: str, content: bytes) -> dict[str, Any]:
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise PUBLISHED.wrong(self.folder, name, f"is cut off or no JSON ({error})") from error
        if not isinstance(found, dict):
            raise PUBLISHED.wrong(self.folder, name, "is no object of JSON")
        return found


class _Film(NamedTuple):
    """What is known of a film."""

    id: str
    part: int
    y: int | None  # None, if it is of no genre that is a class
    plot: str

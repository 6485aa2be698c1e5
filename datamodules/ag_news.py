"""AG News (Zhang et al. 2015, arXiv 1509.01626): titles and first sentences of news.

The texts are of Antonio Gulli's corpus, which may be used for research and any other non-commercial activity;
its page asks to be named: http://groups.di.unipi.it/~gulli/AG_corpus_of_news_articles.html.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from datamodules.published import Published
from mmkd.data.catalogue import PARTS, Catalogue
from mmkd.data.catalogued import CatalogueData
from mmkd.data.media import Texts

PUBLISHED = Published(
    "AG News",
    "https://github.com/zhangxiangxiao/Crepe",
    "train.csv, test.csv and classes.txt of ag_news_csv.tar.gz",
)
"""Where the set comes from: the page names a folder of a drive, so that there is no file to be fetched."""
CLASSES = 4
"""How many classes there are."""


class AgNews(CatalogueData):
    """AG News: 120,000 texts for training and 7,600 for tests, a quarter of each of four classes.

    A sample is "text" ``[length]`` ids of tokens, 0 after the end: title, then description. Tests are the
    published ones; validation and public samples are drawn from the published training samples.

    Args:
        folder: with ``train.csv``, ``test.csv`` and ``classes.txt``, as https://github.com/zhangxiangxiao/Crepe
            says where they are.
        text: how texts are read; 128 characters, if left out.
        **kwargs: arguments of ``CatalogueData``.

    Raises:
        ConfigError: a file is missing or wrong, when the data are first read.
    """

    num_classes = CLASSES
    modalities = ("text",)

    def __init__(self, *, folder: str, text: Texts | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder, self.text = Path(folder), text or Texts(length=128)

    def catalogue(self) -> Catalogue:
        """All texts: those for training, then those for tests.

        Raises:
            ConfigError: a file is missing or wrong.
        """
        classes = PUBLISHED.lines(self.folder, "classes.txt")
        if len(classes) != CLASSES:
            raise PUBLISHED.wrong(
                self.folder, "classes.txt", f"has {len(classes)} names of classes, not {CLASSES}"
            )
        found = [(name, *one) for name in ("train", "test") for one in self._texts(f"{name}.csv")]
        parts, labels, texts = zip(*found, strict=True)
        return Catalogue(
            classes=classes,
            y=torch.tensor(labels),
            views={"text": self.text.view(texts, partial(self.rows, "public"))},
            shown={"text": torch.ones(len(texts), dtype=torch.bool)},
            part=torch.tensor([PARTS.index(name) for name in parts]),
        )

    def _texts(self, name: str) -> list[tuple[int, str]]:
        """The class of each text of a file, from 0 on, and the text."""
        found = []
        for i, (label, title, description) in enumerate(PUBLISHED.rows(self.folder, name, 3)):
            if label not in map(str, range(1, CLASSES + 1)):
                raise PUBLISHED.wrong(
                    self.folder,
                    name,
                    f"has class '{label[:20]}' in row {i + 1}, and classes are 1 to {CLASSES}",
                )
            # The publisher has written a backslash in place of the end of a line.
            text = " ".join(f"{title} {description}".replace("\\", " ").split())
            if not text:
                raise PUBLISHED.wrong(self.folder, name, f"has no text in row {i + 1}")
            found.append((int(label) - 1, text))
        return found

"""A publisher on this machine, and a few files in the formats of published sets."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.data.files import image, sound, table


@dataclass
class Host:
    """What a publisher gives, and who has asked for it."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cut: int | None = None  # bytes after which it hangs up
    asked: list[str] = field(default_factory=list)


@contextmanager
def host() -> Iterator[Host]:
    """A publisher on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    given = Host(f"http://127.0.0.1:{server.server_port}")

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            given.asked.append(name)
            if name not in given.files:
                self.send_error(404)
                return
            content = given.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: given.cut])

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server.RequestHandlerClass = Answers
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield given
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tar(files: Mapping[str, bytes]) -> bytes:
    """A compressed tar archive of files."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return whole.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A ZIP archive of files."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return whole.getvalue()


def inside(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write_cifar10(folder: Path, *, each: int = 20) -> NDArray[np.uint8]:
    """CIFAR-10's binary version with so many records a file; returns all, those for tests at the end."""
    within = folder / "cifar-10-batches-bin"
    within.mkdir(parents=True)
    records = np.random.default_rng(0).integers(0, 256, (6 * each, 3073), np.uint8)
    records[:, 0] = np.arange(6 * each) % 10
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for i, name in enumerate(names):
        (within / name).write_bytes(records[i * each : (i + 1) * each].tobytes())
    classes = "airplane automobile bird cat deer dog frog horse ship truck"
    (within / "batches.meta.txt").write_text(
        "\n".join(classes.split()) + "\n\n"
    )  # with an empty line, as published
    return records


def write_cifar100(folder: Path, *, train: int = 200, test: int = 100) -> NDArray[np.uint8]:
    """CIFAR-100's binary version: five fine classes a coarse one; returns all, those for tests at the end."""
    within = folder / "cifar-100-binary"
    within.mkdir(parents=True)
    records = np.random.default_rng(0).integers(0, 256, (train + test, 3074), np.uint8)
    records[:, 1] = np.arange(train + test) % 100
    records[:, 0] = records[:, 1] // 5
    (within / "train.bin").write_bytes(records[:train].tobytes())
    (within / "test.bin").write_bytes(records[train:].tobytes())
    for kind, count in (("fine", 100), ("coarse", 20)):
        (within / f"{kind}_label_names.txt").write_text("".join(f"{kind} {i}\n" for i in range(count)))
    return records


SPOKEN = ("cat", "dog", "yes")
"""Words of ``write_speech_commands``."""
SPEAKERS = 8
"""How many people say each of them, twice."""


def write_speech_commands(folder: Path) -> None:
    """Three words by eight people, of whom one is for validation and one for tests; and a noise."""
    listed: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for label, word in enumerate(SPOKEN):
        for speaker in range(SPEAKERS):
            for n in range(2):
                name = f"{word}/{speaker:08x}_nohash_{n}.wav"
                sound(folder / name, label, 2 * speaker + n, seconds=0.1)
                if speaker < 2:
                    list(listed.values())[speaker].append(name)
    sound(folder / "_background_noise_" / "white_noise.wav", 0, 0)
    for list_, names in listed.items():
        (folder / list_).write_text("".join(f"{name}\n" for name in names))


def write_esc50(folder: Path, *, classes: int = 50) -> list[dict[str, str]]:
    """A sound of each class and fold, and two in the first, of one recording; returns the rows of the table.

    Classes 0, 5, 10, ... are in ESC-10.
    """
    rows = []
    for target in range(classes):
        for fold in (1, 1, 2, 3, 4, 5):
            take = (
                "B" if rows and rows[-1]["target"] == str(target) and rows[-1]["fold"] == str(fold) else "A"
            )
            source = str(1000 * target + fold)
            file = f"{fold}-{source}-{take}-{target}.wav"
            rows.append(
                {
                    "filename": file,
                    "fold": str(fold),
                    "target": str(target),
                    "category": f"sound_{target}",
                    "esc10": str(target % 5 == 0),
                    "src_file": source,
                    "take": take,
                }
            )
            sound(folder / "audio" / file, target % 4, len(rows), seconds=0.05)
    table(folder / "meta" / "esc50.csv", rows)
    return rows


def write_ag_news(folder: Path, *, train: int = 80, test: int = 20) -> None:
    """AG News with so many texts, every cell in quotes, as published."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("World\nSports\nBusiness\nSci/Tech\n")
    for part, size in (("train", train), ("test", test)):
        rows = [(str(i % 4 + 1), f"{part} {i}", f'he said ""{i}""\\once, twice') for i in range(size)]
        lines = [",".join(f'"{cell}"' for cell in row) + "\n" for row in rows]
        (folder / f"{part}.csv").write_text("".join(lines))


ACTIVITIES = ("WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING")
"""As UCI-HAR numbers them."""
CHANNELS = ("body_acc", "body_gyro", "total_acc")
"""Signals of UCI-HAR, each of three axes."""


def write_uci_har(folder: Path, *, train: int = 10, test: int = 4) -> dict[str, NDArray[np.float64]]:
    """UCI-HAR of so many people, who do each activity in one window; returns its signals, by file."""
    within = folder / "UCI HAR Dataset"
    random, found = np.random.default_rng(0), {}
    for part, first, people in (("train", 1, train), ("test", 1 + train, test)):
        signals = within / part / "Inertial Signals"
        signals.mkdir(parents=True)
        who = [first + i for i in range(people) for _ in ACTIVITIES]
        (within / part / f"subject_{part}.txt").write_text("".join(f"{i}\n" for i in who))
        (within / part / f"y_{part}.txt").write_text("".join(f"{i % 6 + 1}\n" for i in range(len(who))))
        for name in (f"{signal}_{axis}_{part}" for signal in CHANNELS for axis in "xyz"):
            found[name] = random.standard_normal((len(who), 128))
            lines = [" ".join(f"{v: .7e}" for v in row) for row in found[name]]
            (signals / f"{name}.txt").write_text("".join(f" {line}\n" for line in lines))
    (within / "activity_labels.txt").write_text("".join(f"{i + 1} {n}\n" for i, n in enumerate(ACTIVITIES)))
    return found


MOODS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
"""Codes of CREMA-D."""


def write_crema_d(folder: Path, *, actors: int = 10) -> None:
    """CREMA-D: so many actors, who say one sentence in each mood."""
    for actor in range(actors):
        for label, mood in enumerate(MOODS):
            level = "X" if (actor, mood) == (3, "SAD") else "XX"  # as one of the published names has it
            name = f"{1001 + actor}_DFA_{mood}_{level}.wav"
            sound(folder / "AudioWAV" / name, label % 4, actor, seconds=0.1)


FILMS = ((["Drama"], "x"), (["Comedy", "Drama"], "yy"), (["Drama", "Western"], "zzz"))
"""Genres of the films of ``write_mm_imdb``, in turn, and what their plots say."""


def write_mm_imdb(folder: Path, *, train: int = 24, dev: int = 6, test: int = 6) -> None:
    """MM-IMDb: films with a poster and two plots each; every sixth is of no genre of the paper."""
    ids, split = iter(f"{i:07d}" for i in range(train + dev + test)), {}
    for part, size in (("train", train), ("dev", dev), ("test", test)):
        split[part] = [next(ids) for _ in range(size)]
        for i, id_ in enumerate(split[part]):
            genres, plot = FILMS[i % 3]
            image(folder / "dataset" / f"{id_}.jpeg", i % 3, i, size=(12, 18))
            told = {
                "title": id_,
                "genres": ["Adult"] if i % 6 == 5 else genres,
                "plot": [plot, f"a film with {plot}, number {id_}"],
            }
            (folder / "dataset" / f"{id_}.json").write_text(json.dumps(told))
    (folder / "split.json").write_text(json.dumps(split))

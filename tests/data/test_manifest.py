"""Data of one's own without code: what is read, and every problem of a table with its row."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from mmkd.data import Folder, Manifest
from mmkd.data.catalogue import PARTS
from mmkd.data.media import Images, MediaError, Sounds, Texts
from mmkd.data.texts import characters
from mmkd.types import ConfigError
from tests.data import files

pytest.importorskip("polars")
SMALL: dict[str, Any] = {"image": Images(8), "audio": Sounds(4000, 0.2), "text": Texts(12), "batch_size": 2}
PEERS = {"eyes/0": "image", "ears/0": "audio", "readers/0": "text"}


def manifest(folder: Path, rows: list[dict[str, Any]], **kwargs: Any) -> Manifest:
    path = files.table(folder / "table.csv", rows)
    return Manifest(str(path), **{**SMALL, "peers": PEERS, "cache": str(folder / "cache"), **kwargs})


def taken(data: Any, peer: str, split: str = "train") -> tuple[Tensor, list[int]]:
    held = data.private(peer, split)
    x, _, ids = held.take(torch.arange(len(held)))
    return x, ids.tolist()


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("three")
    return manifest(folder, files.three(folder))


def test_every_sample_is_read_as_its_files_are(read: Manifest) -> None:
    """Images and sounds against what libraries read themselves; classes in the order of their names."""
    assert (read.num_classes, read.classes, read.modalities) == (
        3,
        ["cat", "dog", "owl"],
        ("image", "audio", "text"),
    )
    folder = Path(read.whose).parent
    x, ids = taken(read, "eyes/0")
    for view, i in zip(x, ids, strict=True):
        own = Image.open(folder / f"i/{i}.png").convert("RGB").resize((8, 8), Image.Resampling.BILINEAR)
        wanted = torch.from_numpy(np.array(own)).permute(2, 0, 1) / 255
        assert float((view - wanted).abs().max()) <= 2 / 255  # Pillow rounds between its two passes
    x, ids = taken(read, "ears/0")
    assert x.shape[1] == 800
    for view, i in zip(x, ids, strict=True):
        tone = torch.from_numpy(
            soundfile.read(folder / f"a/{i}.wav")[0]
        )  # at 8 kHz, 0.3 s, of which 0.2 s are heard
        spectrum = torch.fft.rfft(tone[400:2000]).abs()
        heard = torch.fft.rfft(view).abs()
        assert abs(int(spectrum.argmax()) - int(heard.argmax())) <= 1  # 5 Hz a bin, in both
        assert int(heard.argmax()) == pytest.approx(220 * 2 ** (i % 3) / 5, abs=1)
    x, ids = taken(read, "readers/0")
    for view, i in zip(x, ids, strict=True):
        text = files.word(i % 3, i)
        assert view.tolist() == [ord(c) for c in text] + [0] * (12 - len(text))


def test_views_that_are_missing_are_nobodys(read: Manifest) -> None:
    for peer, gone in (("eyes/0", 1), ("ears/0", 2), ("readers/0", 3)):
        for split in ("train", "val", "test"):
            assert all(i % 4 != gone for i in taken(read, peer, split)[1])
    public = read.public_reader("train").batch(torch.arange(len(read.rows("public"))))
    for modality, gone in (("image", 1), ("audio", 2), ("text", 3)):
        assert public.shown[modality].tolist() == [i % 4 != gone for i in read.rows("public").tolist()]


def test_a_second_start_decodes_nothing_and_a_changed_file_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row for row in files.three(tmp_path) if "image" in row]
    rows = [{name: row[name] for name in ("id", "label", "image")} for row in rows]
    decoded: list[Path] = []
    decode = Images.decode

    def noted(self: Images, path: Path) -> Tensor:
        decoded.append(path)
        return decode(self, path)

    monkeypatch.setattr(Images, "decode", noted)

    def start() -> tuple[Tensor, list[str]]:
        decoded.clear()
        view: Any = manifest(tmp_path, rows, peers={"eyes/0": "image"}).samples.views["image"].whole()
        return view, sorted(path.name for path in decoded)

    first, all_of_them = start()
    assert len(all_of_them) == len(rows) == 27
    again, none = start()
    assert none == []
    assert torch.equal(first, again)
    changed = tmp_path / rows[5]["image"]
    files.image(changed, 0, 99)
    os.utime(changed, ns=(1, 1))
    other, one = start()
    assert one == [changed.name]
    assert [bool((a != b).any()) for a, b in zip(first, other, strict=True)] == [i == 5 for i in range(27)]


def test_a_cache_that_was_cut_is_made_anew(tmp_path: Path) -> None:
    rows = [
        {"label": str(i % 2), "image": files.image(tmp_path / f"{i}.png", i % 2, i).name} for i in range(20)
    ]
    first: Any = manifest(tmp_path, rows, peers={"eyes/0": "image"}).samples.views["image"].whole()
    for file in (tmp_path / "cache").rglob("values"):
        os.truncate(file, 100)
    (seen,) = (tmp_path / "cache").rglob("seen")
    seen.unlink()
    again: Any = manifest(tmp_path, rows, peers={"eyes/0": "image"}).samples.views["image"].whole()
    assert torch.equal(first, again)


def test_large_views_are_read_as_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They show what views in memory show, in private and public samples."""
    rows = files.three(tmp_path)
    held = manifest(tmp_path, rows)
    monkeypatch.setattr("mmkd.data.decoded.MEMORY", 0)
    lazy = manifest(tmp_path, rows, cache=str(tmp_path / "other"))
    for peer in PEERS:
        assert torch.equal(
            held.reader(peer, "train").batch(torch.tensor([2, 0]), 0).x,
            lazy.reader(peer, "train").batch(torch.tensor([2, 0]), 0).x,
        )  # type: ignore[arg-type]
    places = torch.arange(len(held.rows("public")))
    one, other = (data.public_reader("train").batch(places) for data in (held, lazy))
    for m in held.modalities:
        shown = one.shown[m]
        assert torch.equal(shown, other.shown[m])
        assert torch.equal(one.views[m][shown], other.views[m][shown])  # type: ignore[index]


# --- columns ---------------------------------------------------------------------------------------


def test_splits_owners_and_classes_are_those_of_the_table(tmp_path: Path) -> None:
    rows = files.three(tmp_path, 24)
    for i, row in enumerate(rows):
        row |= {"split": PARTS[i // 6], "owner": ["eyes/0", "ears/0", "readers/0"][i % 3] if i < 6 else ""}
        row["label"] = "" if i >= 18 else str([10, 9, 2][i % 3])
    data = manifest(tmp_path, rows)
    assert data.classes == ["2", "9", "10"]
    for k, name in enumerate(PARTS):
        assert data.rows(name).tolist() == list(range(6 * k, 6 * k + 6))
    assert taken(data, "eyes/0")[1] == [0, 3]
    assert taken(data, "readers/0")[1] == [2, 5]
    assert data.samples.y[:3].tolist() == [2, 1, 0]
    assert manifest(tmp_path, rows, classes=["9", "10", "2", "7"]).num_classes == 4


def test_of_a_group_all_are_in_one_part(tmp_path: Path) -> None:
    rows = [row | {"group": f"p{i // 4}"} for i, row in enumerate(files.three(tmp_path, 80))]
    data = manifest(tmp_path, rows)
    persons = [
        {i // 4 for name in names for i in data.rows(name).tolist()}
        for names in (("val",), ("test",), ("train", "public"))
    ]
    assert sum(map(len, persons)) == len(set.union(*persons)) == 20


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    import polars

    rows = files.three(tmp_path)
    csv = manifest(tmp_path, rows)
    polars.DataFrame(rows).write_parquet(tmp_path / "table.parquet")
    other = Manifest(str(tmp_path / "table.parquet"), **SMALL, peers=PEERS, cache=str(tmp_path / "cache"))
    assert csv.table[:-1] == other.table[:-1]


# --- what is wrong with a table --------------------------------------------------------------------


def spoilt(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> str:
    """What is said of a table of twelve samples after a change."""
    rows = files.three(folder, 12)
    change(rows)
    with pytest.raises(ConfigError) as error:
        manifest(folder, rows)
    return str(error.value)


def put(row: int, **cells: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda rows: rows[row].update(cells)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put(4, id="s2"), "row 6: id 's2' is that of row 4"),
        (put(4, id=""), "row 6: it has no id"),
        (put(0, split="tets"), "row 2: split 'tets' is none of train, val, test, public; did you mean test?"),
        (put(3, label=""), "row 5: it has no label; only public samples may be without one"),
        (put(2, image="../other.png"), "row 4: '../other.png' is not below the folder of the table"),
        (put(2, image="i/../../x.png"), "row 4: 'i/../../x.png' is not below"),
        (put(2, image="/etc/passwd"), "row 4: '/etc/passwd' is not below"),
        (put(2, audio="a/no.wav"), "row 4: there is no file 'a/no.wav'"),
        (put(2, audio="a/" + "x" * 300), "row 4: there is no file"),
        (put(7, text="  ", image="", audio=""), "row 9: it has no view"),
        (put(0, split="test", owner="eyes/0"), "row 2: 'eyes/0' owns it, and it is for test"),
        (put(0, group="p"), "row 3: it is in no group, while others are"),
        (lambda rows: [row.update(split="train", owner="eyes/0" if i else "") for i, row in enumerate(rows)],
         "row 2: nobody owns it, while others have owners"),
        (lambda rows: rows.clear() or rows.append({"id": "", "label": "", "image": ""}), "it has no view"),
        (lambda rows: [row.update(label="cat") for row in rows], "are labelled 'cat': there must be two classes"),
        (put(0, imgae="x"), "has a column 'imgae', and there may be id, split, label, owner, group, image, audio, text; did"),
        (lambda rows: [row.pop("label") for row in rows], "needs a column 'label'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_row(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], Any], said: str
) -> None:
    assert said in spoilt(tmp_path, change)


def test_all_problems_are_told_at_once_and_of_very_many_the_number(tmp_path: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[1]["label"] = ""
        rows[5]["image"] = "no.png"
        rows[3]["id"] = "s0"

    assert [line.split(":")[0] for line in spoilt(tmp_path, change).splitlines()][1:] == [
        "  row 3",
        "  row 5",
        "  row 7",
    ]
    many = spoilt(
        tmp_path, lambda rows: rows.extend({"id": f"x{i}", "label": "", "text": "x"} for i in range(30))
    )
    assert many.splitlines()[0].endswith("has 30 problems in 42 rows:")
    assert many.splitlines()[-1] == "  and 10 more"
    assert len(many.splitlines()) == 22


def test_empty_files_and_tables_and_other_encodings_are_named(tmp_path: Path) -> None:
    assert "row 4: 'i/2.png' is empty" in spoilt(
        tmp_path, lambda rows: (tmp_path / "i/2.png").write_bytes(b"")
    )
    table = tmp_path / "other.csv"
    for content, said in [
        (b"id,label,text\n", "has no rows"),
        (b"", "needs a column 'label'"),
        (
            "id,label,text\n1,a,\xe9t\xe9\n".encode("latin-1"),
            "cannot be read as a table: it is not written in UTF-8",
        ),
        (b'id,label,text\n1,a,"x\n', "cannot be read as a table: could not parse"),
    ]:
        table.write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            Manifest(str(table))
    with pytest.raises(ConfigError, match="there is no table"):
        Manifest(str(tmp_path / "no.csv"))


def test_labels_that_are_no_class_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"row 4: label 'owl' is no class"):
        manifest(tmp_path, files.three(tmp_path, 12), classes=["cat", "dog"])


# --- what is wrong with a file ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("medium", "content", "said"),
    [
        (Images(), b"\x89PNG\r\n\x1a\nnothing", "is no image that can be read"),
        (Images(), b"", "is empty"),
        (Sounds(), b"RIFF\x00\x00", "is no sound that can be read"),
        (Sounds(), b"", "is empty"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, medium: Any, content: bytes, said: str) -> None:
    path = tmp_path / "one"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=rf"one {said}"):
        medium.decode(path)
    with pytest.raises(MediaError, match="two cannot be opened: No such file"):
        medium.decode(tmp_path / "two")


def test_images_of_a_pixel_and_sounds_of_less_than_a_frame_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is an image of 1 x 5 pixels: leave it out"):
        Images().decode(files.image(tmp_path / "thin.png", 0, 0, size=(1, 5)))
    with pytest.raises(MediaError, match="is a sound of 20 ms, shorter than a frame of 25: leave it out"):
        Sounds().decode(files.sound(tmp_path / "short.wav", 0, 0, seconds=0.02))


def test_a_broken_file_is_told_with_its_row_when_all_are_opened(tmp_path: Path) -> None:
    """And else with its path, when it is first read."""
    rows = files.three(tmp_path)
    (tmp_path / "i/4.png").write_bytes((tmp_path / "i/4.png").read_bytes()[:60])
    (tmp_path / "a/9.wav").write_bytes(b"no sound")
    data = manifest(tmp_path, rows)
    with pytest.raises(ConfigError) as error:
        data.check()
    told = str(error.value).splitlines()
    assert [line.split(":")[0].strip() for line in told[1:]] == ["row 6", "row 11"]
    assert "i/4.png is no image that can be read" in told[1]
    with pytest.raises(MediaError, match="is no image that can be read"):
        data.reader("eyes/0", "train")


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 3), ("RGBA", 3), ("P", 3), ("1", 1), ("RGB", 1), ("LA", 1)]
)
def test_images_of_any_mode_become_what_is_asked_for(tmp_path: Path, mode: str, channels: Any) -> None:
    made = Images(8, channels).decode(files.image(tmp_path / "one.png", 1, 0, mode=mode))
    assert made.shape == (channels, 8, 8)
    assert made.dtype == torch.uint8


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (8000, 2), (44100, 2), (11025, 1), (22050, 3)])
def test_sounds_of_any_rate_become_one_channel_of_one_rate(tmp_path: Path, rate: int, channels: int) -> None:
    """The tone keeps its pitch and its level, and what is short is followed by silence."""
    made = Sounds(4000, 0.5).decode(files.sound(tmp_path / "one.wav", 0, 0, rate=rate, channels=channels))
    assert made.shape == (2000,)
    assert made.dtype == torch.int16
    assert not bool(made[1201:].any())  # 0.3 s of sound, rounded to whole samples of either rate
    heard = made[100:1100].double() / 2**15
    assert int(torch.fft.rfft(heard).abs().argmax()) == 55  # of 4 Hz
    assert float(heard.square().mean().sqrt()) == pytest.approx(0.5 / 2**0.5, rel=0.02)


# --- texts -----------------------------------------------------------------------------------------


def test_characters_are_folded_to_those_that_look_like_them() -> None:
    assert characters("Àé ß") == [ord("A"), ord("e"), ord(" "), ord("?")]
    assert characters("") == []


def test_a_tokenizer_is_trained_on_public_texts_alone(tmp_path: Path) -> None:
    """Private texts may be anything, and public ones are read alike."""

    def ids(private: str) -> Tensor:
        rows = [{"label": str(i % 2), "text": f"the public words {i}", "split": "public"} for i in range(8)]
        rows += [{"label": str(i % 2), "text": f"{private} {i}", "split": "train"} for i in range(8)]
        rows += [
            {"label": str(i % 2), "text": "x", "split": split} for split in ("val", "test") for i in range(2)
        ]
        texts = Texts(12, "public", 280)
        data = manifest(tmp_path, rows, text=texts, peers={"readers/0": "text"})
        data.reader("readers/0", "train")
        assert data.text_of(data.samples.views["text"].take(torch.tensor([8]))[0]).startswith(private[:3])  # type: ignore[index]
        return data.samples.views["text"].whole()[:8]  # type: ignore[index, return-value]

    assert torch.equal(ids("secret"), ids("of another language entirely"))
    assert int((ids("secret") > 256).sum()) > 0  # some pairs were learned
    assert int(ids("secret").max()) < 280


def test_without_public_texts_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    rows = [{"label": str(i % 2), "text": f"word {i}"} for i in range(20)]
    data = manifest(tmp_path, rows, public=0.0, text=Texts(tokenizer="public"), peers={"readers/0": "text"})
    with pytest.raises(ConfigError, match="no public sample has a text"):
        data.reader("readers/0", "train")
    with pytest.raises(ConfigError, match="is no folder of a tokenizer of transformers"):
        manifest(tmp_path, rows, text=Texts(tokenizer=str(tmp_path)), peers={"readers/0": "text"}).reader(
            "readers/0", "train"
        )


# --- folders ---------------------------------------------------------------------------------------


def test_a_folder_with_one_sub_folder_a_class(tmp_path: Path) -> None:
    for i in range(30):
        files.image(tmp_path / f"data/{['cat', 'dog', 'owl'][i % 3]}/deep/{i}.PNG", i % 3, i)
    (tmp_path / "data/cat/notes.txt").write_text("no image")
    data = Folder(
        str(tmp_path / "data"),
        image=Images(8, 1),
        cache=str(tmp_path / "c"),
        peers={"eyes/0": "image"},
        batch_size=2,
    )
    assert (data.classes, data.modalities, len(data.samples.y)) == (["cat", "dog", "owl"], ("image",), 30)
    assert torch.bincount(data.samples.y).tolist() == [10, 10, 10]
    x, ids = taken(data, "eyes/0")
    bright = x.mean((1, 2)).reshape(len(x), -1)[:, [1, 4, 6]].argmax(1)  # thirds of eight columns
    assert torch.equal(bright, data.samples.y[ids])


def test_folders_of_parts_above_those_of_classes(tmp_path: Path) -> None:
    for part, count in (("train", 8), ("test", 4)):
        for i in range(count):
            files.sound(tmp_path / part / f"{i % 2}" / f"{i}.wav", i % 2, i)
    for i in range(5):
        files.sound(tmp_path / "public" / f"{i}.wav", 0, i)
    data = Folder(
        str(tmp_path), audio=Sounds(4000, 0.2), cache=str(tmp_path / "c"), val=0.25, peers={"ears/0": "audio"}
    )
    assert [len(data.rows(name)) for name in PARTS] == [6, 2, 4, 5]


def test_folders_that_hold_nothing_or_two_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty/cat").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has no folder of a class with files in it"):
        Folder(str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="there is no folder"):
        Folder(str(tmp_path / "no"))
    files.image(tmp_path / "both/cat/1.png", 0, 0)
    files.sound(tmp_path / "both/dog/1.wav", 0, 0)
    with pytest.raises(ConfigError, match="has images and sounds; a table says which belong together"):
        Folder(str(tmp_path / "both"))

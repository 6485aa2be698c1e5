"""Emoji as pairs: what their files hold, parts that share no emoji, and wrong files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules.emoji import EmojiPairs
from datamodules.emoji.listing import GROUPS
from datamodules.emoji.pairs import LANGUAGES, SAMPLES, VARIANTS
from datamodules.emoji.spelling import VOCABULARY, decode, fold
from datamodules.speech import Utterance, record, recordings
from mmkd.cohort import Fleet
from mmkd.data.catalogue import PARTS
from mmkd.students import AudioStudent, TextStudent, VisionStudent
from mmkd.types import ConfigError
from tests.datamodules import formats
from tests.datamodules.hybrids import check_a_round

EACH = 6
COUNT = EACH * len(GROUPS)
FLEETS = {"cameras": "image", "microphones": "audio", "phones": "text"}
PEERS = {f"{fleet}/{i}": modality for fleet, modality in FLEETS.items() for i in range(2)}
NPM = "npm install emoji-datasource-google"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages as npm would put them there, and recordings beside them."""
    folder = tmp_path_factory.mktemp("emoji")
    formats.write_emoji(folder, each=EACH)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "node_modules"))


def make(folder: Path, **kwargs: Any) -> EmojiPairs:
    arguments = {"languages": ["de", "en"], "cache": str(folder / "cache"), "peers": PEERS, "batch_size": 4}
    return EmojiPairs(folder=str(folder), **{**arguments, **kwargs})


def test_samples_are_those_of_the_files(whole: Path) -> None:
    """Every emoji in both languages, with pictures of the two vendors in turn, over white."""
    data = make(whole, size=16)
    views, row = data.samples.views, torch.arange(2 * COUNT)
    images, texts, sounds = (views[m].take(row) for m in ("image", "text", "audio"))
    assert images.shape == (2 * COUNT, 3, 16, 16)
    assert data.samples.y.tolist() == [i // 2 % len(GROUPS) for i in range(2 * COUNT)]
    names = [
        [f"{word} {i}" for i in range(len(GROUPS)) for word in formats.WORDS[language].split()]
        for language in ("de", "en")
    ]
    assert decode(texts) == [fold(names[i % 2][i // 2]) for i in range(2 * COUNT)]
    for i in range(2 * COUNT):
        seen = formats.colour(["google", "twitter"][(i // 2 + i % 2) % 2], i // 2)
        expected = formats.CLEAR * torch.tensor(seen) / 255 + (1 - formats.CLEAR)
        # The picture is half clear but for a 255th of rounding, and is kept in whole numbers of 255ths.
        torch.testing.assert_close(
            images[i], expected[:, None, None].expand(3, 16, 16), rtol=0, atol=1.5 / 255
        )
    assert sounds.shape == (2 * COUNT, SAMPLES)
    assert (sounds.abs().amax(1) == 1).all()


def test_no_emoji_is_in_two_parts_or_of_two_peers(whole: Path) -> None:
    data = make(whole, public=0.25, val=0.1, test=0.2)
    emoji = {name: {int(i) // 2 for i in data.rows(name)} for name in PARTS}
    left = COUNT - len(emoji["val"]) - len(emoji["test"])
    assert abs(len(emoji["public"]) - left / 4) <= 1
    assert sum(map(len, emoji.values())) == COUNT == len(set.union(*emoji.values()))
    assert sum(len(data.rows(name)) for name in PARTS) == 2 * COUNT
    for fleet in FLEETS:
        owned = [data.private(f"{fleet}/{i}", "train") for i in range(2)]
        ids = [{int(i) // 2 for i in getattr(held, "ids", getattr(held, "rows", None))} for held in owned]
        assert ids[0].isdisjoint(ids[1])
        assert set.union(*ids) == emoji["train"]


def test_public_emoji_are_drawn_by_seed_and_without_labels(whole: Path) -> None:
    rows = [make(whole, seed=seed).rows("public").tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]
    assert len(make(whole, public=0.0).rows("public")) == 0


def test_a_second_start_says_nothing_again(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(whole).prepare_data()
    monkeypatch.setattr(recordings, "_say_elsewhere", lambda said: pytest.fail("said again"))
    make(whole, seed=1, size=8).prepare_data()


def test_what_has_no_picture_or_no_name_is_left_out(folder: Path) -> None:
    """Of three emoji one lacks a vendor, one the other, and one a name in one language."""
    path = folder / "emoji-datasource-google" / "emoji.json"
    listed = json.loads(path.read_text())
    listed[0]["has_img_twitter"] = listed[1]["has_img_google"] = False
    path.write_text(json.dumps(listed))
    (folder / "emoji-datasource-twitter" / "img" / "twitter" / "64" / listed[0]["image"]).unlink()
    (folder / "emoji-datasource-google" / "img" / "google" / "64" / listed[1]["image"]).unlink()
    path = folder / "cldr-annotations-full" / "annotations" / "de" / "annotations.json"
    names = json.loads(path.read_text())
    entries = names["annotations"]["annotations"]
    entries[chr(int(listed[2]["unified"], 16))].pop("tts")
    path.write_text(json.dumps(names))
    data = make(folder)
    assert len(data.samples.y) == 2 * COUNT - 1
    blue = data.samples.views["image"].take(torch.arange(4))[:, 2].mean((1, 2))
    assert (blue[:2] > blue[2:]).all()  # Google's is bluer
    assert len(make(folder, vendors=["google"]).samples.y) == 2 * (COUNT - 1) - 1


def test_variation_selectors_do_not_matter(folder: Path) -> None:
    """The list has them where emoji are coloured; CLDR leaves them out."""
    path = folder / "emoji-datasource-google" / "emoji.json"
    listed = json.loads(path.read_text())
    listed[0]["unified"] += "-FE0F"
    path.write_text(json.dumps(listed))
    assert len(make(folder).samples.y) == 2 * COUNT


def test_peers_learn_a_round_of_a_hybrid(whole: Path) -> None:
    fleets = {
        "cameras": Fleet(lambda n: VisionStudent(n, in_chans=3, width=4), 2),
        "microphones": Fleet(lambda n: AudioStudent(n, width=4), 2),
        "phones": Fleet(lambda n: TextStudent(n, vocabulary=VOCABULARY, width=4), 2),
    }
    check_a_round(make(whole, peers=None, size=8), fleets)


LIST = "emoji-datasource-google/emoji.json"
NAMES = "cldr-annotations-full/annotations/de/annotations.json"
PICTURE = "emoji-datasource-google/img/google/64/1f400.png"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def change(**entry: Any) -> Callable[[Path], None]:
    """Another first entry of the list."""

    def changed(path: Path) -> None:
        listed = json.loads(path.read_text())
        path.write_text(json.dumps([{**listed[0], **entry}, *listed[1:]]))

    return changed


def put(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        (LIST, Path.unlink, "is missing"),
        (LIST, cut, "is cut off or changed"),
        (LIST, put("\xff"), "is cut off or changed"),
        (LIST, put("[" * 100_000), "is cut off or changed"),
        (LIST, put("{}"), "entry 0 is no emoji"),
        (LIST, put("[]"), "has no emoji of Smileys"),
        (LIST, put("[1]"), "entry 0 is no emoji"),
        (LIST, change(unified="xyz"), "entry 0 is no emoji"),
        (LIST, change(unified="FFFFFF"), "entry 0 is no emoji"),
        (LIST, change(unified=5), "entry 0 is no emoji"),
        (LIST, change(image="../../1f400.png"), "entry 0 is no emoji"),
        (LIST, change(category=["a"]), "entry 0 is no emoji"),
        (NAMES, Path.unlink, "is missing"),
        (NAMES, cut, "is cut off or changed"),
        (NAMES, put("[]"), "is not a file of CLDR's annotations"),
        (NAMES, put('{"annotations": {"annotations": {"a": {"tts": [5]}}}}'), "is not a file of CLDR's"),
        (NAMES, put('{"annotations": {"annotations": {"a": 5}}}'), "is not a file of CLDR's"),
        (PICTURE, Path.unlink, "is missing"),
        (PICTURE, cut, "is cut off or changed"),
        (PICTURE, put(""), "is cut off or changed"),
        (PICTURE, lambda path: Image.new("RGB", (64, 64)).save(path, "GIF"), "is cut off or changed"),
        (PICTURE, lambda path: Image.new("RGB", (72, 64)).save(path), "has 72 x 64 pixels"),
    ],
)
def test_wrong_files_are_named(file: str, damage: Callable[[Path], Any], said: str, folder: Path) -> None:
    damage(folder / file)
    with pytest.raises(ConfigError, match=said) as error:
        make(folder).private("cameras/0", "train")
    assert str(folder / file) in str(error.value)
    assert NPM in str(error.value) or "72 x 64" in said
    assert "\n" not in str(error.value)


def test_names_of_no_emoji_are_told(folder: Path) -> None:
    put('{"annotations": {"annotations": {}}}')(folder / NAMES)
    with pytest.raises(ConfigError, match="no emoji has both a picture of google, twitter and a name in de"):
        make(folder, languages=["de"]).private("cameras/0", "train")


def test_nothing_installed_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=NPM):
        make(tmp_path).private("cameras/0", "train")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": 7}, "size must lie in"),
        ({"size": 65}, "size must lie in"),
        ({"languages": []}, "languages are some of cs"),
        ({"languages": ["xx"]}, "languages are some of cs"),
        ({"languages": ["de", "de"]}, "languages are some of cs"),
        ({"vendors": []}, "vendors are some of google, twitter"),
        ({"vendors": ["apple"]}, "vendors are some of google, twitter"),
        ({"public": -0.1}, "public must"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        make(tmp_path, **arguments)


def test_every_language_has_every_voice(tmp_path: Path) -> None:
    said = [Utterance("banana", f"{voice}+{variant}") for voice in LANGUAGES.values() for variant in VARIANTS]
    assert (record(said, sample_rate=8_000, samples=8_000, cache=tmp_path).length > 1_000).all()


@pytest.mark.long
@pytest.mark.skipif(not (Path("node_modules") / LIST).exists(), reason="needs three packages of npm")
def test_all_of_them_where_npm_has_them() -> None:
    """More than a thousand, of which most are people, in as many samples as there are languages."""
    data = make(Path("node_modules"), cache=".cache/emoji", languages=["de", "en", "es", "fr"])
    counts = torch.bincount(data.samples.y)
    assert counts.sum() > 4_000
    assert (counts % 4 == 0).all()
    assert counts.argmax() == GROUPS.index("People & Body")

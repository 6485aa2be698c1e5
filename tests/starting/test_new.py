"""Configuration files that fit data of one's own, and run as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mmkd.__main__ import main
from mmkd.data.table import SHOWN
from mmkd.starting.files import METHODS
from mmkd.starting.fitting import EACH, MOST, fitting
from mmkd.types import ConfigError
from tests.data import files

pytest.importorskip("polars")


def new(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.chdir(folder)
    return main(["new", *arguments])


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_a_table_of_three_modalities_trains_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is typed: new, and then the line that it prints; for one round of the hybrid here."""
    files.table(tmp_path / "pets.csv", files.three(tmp_path, 120))
    assert new(tmp_path, monkeypatch, "--from", "pets.csv") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  mmkd")]
    assert [line[1] for line in lines] == ["data", "fit", "tradeoff"]
    peers = read(tmp_path / "pets-study/peers.yaml")["model"]["peers"]
    assert {name: fleet["student"]["class_path"] for name, fleet in peers.items()} == {
        "cameras": "VisionStudent",
        "microphones": "AudioStudent",
        "phones": "TextStudent",
    }
    assert main([*lines[1][1:], "--trainer.max_epochs=1"]) == 0
    said = capsys.readouterr().err
    assert "shared accuracy (validation): image" in said
    study = read(tmp_path / "pets-study/study.yaml")
    assert {*study["methods"]} == {*METHODS}
    for name in [*study["configs"], *(file for own in study["methods"].values() for file in own["configs"])]:
        assert (tmp_path / "pets-study" / name).is_file()


@pytest.mark.long
def test_its_study_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of 300 images in three classes, from nothing to a report."""
    for i in range(300):
        files.image(tmp_path / f"pictures/{'abc'[i % 3]}/{i}.png", i % 3, i)
    assert new(tmp_path, monkeypatch, "--from", "pictures") == 0
    assert main(["tradeoff", "pictures-study/study.yaml", "--out", "results/pictures"]) == 0
    assert (tmp_path / "results/pictures/report.html").is_file()


def test_peers_are_as_many_as_there_are_samples_for(tmp_path: Path) -> None:
    """At most four of a modality, and at least two, who can teach each other; of groups no more than there are."""
    for count in (12, 60, 200):
        rows = [{"label": str(i % 2), "text": f"word {i}"} for i in range(count)]
        found = fitting(files.table(tmp_path / f"{count}.csv", rows)).fleets["phones"][0]
        private = round(0.8 * round(0.7 * count))
        assert found == max(2, min(MOST, private // EACH))
    split = ["train", "train", "train", "val", "test"]  # of the first three groups one becomes public
    rows = [
        {"label": str(i % 2), "text": "x", "group": f"p{i // 40}", "split": split[i // 40]}
        for i in range(200)
    ]
    assert fitting(files.table(tmp_path / "groups.csv", rows)).fleets == {"phones": (2, "text")}


def test_owners_become_fleets_and_their_rows_say_what_they_read(tmp_path: Path) -> None:
    rows = files.three(tmp_path, 60)
    owners = ["doors/0", "doors/1", "rooms/0"]
    for i, row in enumerate(rows):
        split = "train" if i < 36 else ["val", "test", "public"][i % 3]
        row |= {"split": split, "owner": owners[i % 3] if i < 36 else ""}
        row.pop("text", "")
        if i < 36:
            row.pop("audio" if i % 3 < 2 else "image", None)
        if not ({"image", "audio"} & row.keys()):
            row["image"] = "i/0.png"
    fit = fitting(files.table(tmp_path / "owned.csv", rows))
    assert fit.fleets == {"doors": (2, "image"), "rooms": (1, "audio")}
    assert "partition" not in fit.data["init_args"]


@pytest.mark.parametrize(
    ("owners", "said"),
    [(["alice", "bob"], "call owners FLEET/NUMBER"), (["a/0", "a/2"], "'a/1' owns nothing")],
)
def test_owners_have_names_of_peers(tmp_path: Path, owners: list[str], said: str) -> None:
    rows = [
        {"label": str(i % 2), "text": f"w {i}", "split": "train", "owner": owners[i % 2]} for i in range(20)
    ]
    rows += [{"label": str(i % 2), "text": "w", "split": ["val", "test"][i // 2]} for i in range(4)]
    with pytest.raises(ConfigError, match=said):
        fitting(files.table(tmp_path / "table.csv", rows))


@pytest.mark.parametrize(("rate", "frame"), [(8000, 256), (11025, 256), (16000, 512), (44100, 512)])
def test_sounds_are_read_at_their_own_rate_in_frames_of_16_to_32_ms(
    tmp_path: Path, rate: int, frame: int
) -> None:
    for i in range(20):
        files.sound(tmp_path / f"clips/{i % 2}/{i}.wav", i % 2, i, rate=rate, seconds=0.4)
    fit = fitting(tmp_path / "clips")
    assert fit.data["init_args"]["audio"] == {"rate": min(rate, 16000), "seconds": 0.4}
    student = fit.students["audio"]
    assert (student["sample_rate"], student["n_fft"]) == (min(rate, 16000), frame)
    assert 0.016 <= frame / min(rate, 16000) <= 0.032


@pytest.mark.parametrize(
    ("mode", "side", "size", "channels"), [("L", 28, 32, 1), ("RGB", 16, 16, 3), ("LA", 8, 16, 1)]
)
def test_images_are_read_as_large_and_as_colourful_as_they_are(
    tmp_path: Path, mode: str, side: int, size: int, channels: int
) -> None:
    for i in range(20):
        files.image(tmp_path / f"pictures/{i % 2}/{i}.png", i % 2, i, size=(side, side + 4), mode=mode)
    fit = fitting(tmp_path / "pictures")
    assert fit.data["init_args"]["image"] == {"size": size, "channels": channels}
    assert fit.students["image"] == {"in_chans": channels}


def test_all_problems_of_a_table_are_lines_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is written; with --deep, broken files are among them."""
    rows = [{"label": "", "text": f"{i}"} for i in range(30)]
    files.table(tmp_path / "wrong.csv", rows)
    assert new(tmp_path, monkeypatch, "--from", "wrong.csv") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "mmkd: wrong.csv has 30 problems in 30 rows:"
    assert len(lines) == SHOWN + 2
    assert not (tmp_path / "wrong-study").exists()
    for i in range(20):
        files.image(tmp_path / f"pictures/{i % 2}/{i}.png", i % 2, i)
    (tmp_path / "pictures/1/7.png").write_bytes(b"nothing")
    assert new(tmp_path, monkeypatch, "--from", "pictures", "--deep") == 2
    assert "7.png is no image that can be read" in capsys.readouterr().err
    assert new(tmp_path, monkeypatch, "--from", "pictures") == 0
    assert new(tmp_path, monkeypatch, "--from", "pictures") == 2
    assert "pictures-study is there already" in capsys.readouterr().err

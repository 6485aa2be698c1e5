"""CNR-EXT: boxes by hand, published splits, one camera a peer, and a line for whatever may be wrong."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules.cnr_ext import CnrExt
from datamodules.parking import cnr_format
from mmkd.functional.detection.boxes import EMPTY, KNOWN, UNLABELLED
from mmkd.types import ConfigError

HEIGHT, WIDTH = 243, 324  # an eighth of 1944 and of 2592
SLOTS = {1: {5: (800, 400, 160, 240), 7: (-80, 1900, 160, 100)}, 2: {5: (0, 0, 8, 16), 9: (80, 80, 160, 160)}}
BOX = {5: (100.0, 50.0, 120.0, 80.0), 7: (0.0, 237.5, 10.0, 243.0)}  # of camera 1; that of slot 7 is cut
DAYS = {
    "train": [("SUNNY", "2015-11-21"), ("RAINY", "2015-11-20"), ("OVERCAST", "2015-11-22")],
    "val": [("SUNNY", "2015-12-01")],
    "test": [("RAINY", "2015-12-02")],
}
TIMES = ("09.47", "10.17", "13.05", "17.30")


def occupied(camera: int, day: str, time: str, slot: int) -> int:
    """Slot 5 is full before noon and slot 7 after it; slot 9 never, and a camera sees nothing on one day."""
    if day == "2015-12-02":
        return 0
    return {5: int(time < "12"), 7: int(time > "12"), 9: 0}[slot]


def path(weather: str, day: str, camera: int, time: str) -> str:
    return f"FULL_IMAGE_1000x750/{weather}/{day}/camera{camera}/{day}_{time.replace('.', '')}.jpg"


def build(root: Path) -> Path:
    """A folder as it is published, of two cameras."""
    (root / "LABELS").mkdir(parents=True)
    for camera, slots in SLOTS.items():
        rows = [f"{slot},{','.join(map(str, box))}" for slot, box in slots.items()]
        (root / f"camera{camera}.csv").write_text("\n".join(["SlotId,X,Y,W,H", *rows]) + "\n")
    header = "camera,datetime,day,hour,image_url,minute,month,occupancy,slot_id,weather,year,occupant_changed"
    lines = [header, "A,20150703_0805,3,8,CNRPark/A/free/20150703_0805_1.jpg,5,7,0,1,S,2015,"]
    for split, days in DAYS.items():
        listed = []
        for weather, day in days:
            for camera, slots in SLOTS.items():
                for i, time in enumerate(TIMES):
                    file = root / path(weather, day, camera, time)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (40, 30), (60 * camera, 50 * i, 0)).save(file, quality=95)
                    for slot in slots:
                        if (slot, time) == (7, "10.17"):
                            continue  # nobody looked
                        full = occupied(camera, day, time, slot)
                        patch = f"{weather}/{day}/camera{camera}/{weather[0]}_{day}_{time}_C{camera:02d}_{slot}.jpg"
                        hour, minute = time.split(".")
                        y, m, d = day.split("-")
                        lines.append(
                            f"{camera},{day}_{time},{d},{hour},CNR-EXT/PATCHES/{patch},{minute},{m},"
                            f"{full}{'.0' if i % 2 else ''},{slot},{weather[0]},{y},0"
                        )
                        listed.append(f"{patch} {full}")
        (root / "LABELS" / f"{split}.txt").write_text("\n".join(listed) + "\n")
    (root / "CNRPark+EXT.csv").write_text("\n".join(lines) + "\n")
    return root


PEERS = {"cameras/0": "image", "cameras/1": "image"}


def make(root: Path, **kwargs: Any) -> CnrExt:
    given = {"cameras": [1, 2], "height": HEIGHT, "width": WIDTH, "peers": PEERS}
    return CnrExt(root=str(root), **{**given, **kwargs})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("cnr") / "data")


def rows(y: Tensor, kind: int) -> list[tuple[float, ...]]:
    return [tuple(row[:4]) for row in y.tolist() if row[4] == kind]


def test_slots_are_rescaled_and_cut_at_the_border(root: Path) -> None:
    samples = make(root).private("cameras/0", "train")
    assert samples.x.shape == (12, 3, HEIGHT, WIDTH)
    assert samples.x.dtype == torch.uint8
    assert samples.y.dtype == torch.float32
    assert samples.y.shape == (12, 4, 5)  # two slots, each with a car at most
    morning, unseen, noon, evening = samples.y[:4]
    for frame, full in ((morning, 5), (noon, 7), (evening, 7)):
        assert sorted(rows(frame, KNOWN)) == sorted(BOX.values())
        assert rows(frame, 0) == [BOX[full]]
        assert len(rows(frame, EMPTY)) == 1
    # Where nobody looked nothing is known.
    assert rows(unseen, KNOWN) == rows(unseen, 0) == [BOX[5]]


def test_the_rows_of_a_sample_are_as_many_everywhere(root: Path) -> None:
    data = make(root)
    seen = {data.private(p, s).y.shape[1:] for p in PEERS for s in ("train", "val", "test")}
    assert seen == {(4, 5)}
    # One camera whose fullest frame has two slots, one of which nobody labels: two rows are enough.
    (first, *_), other = SLOTS[1], make(root, cameras=[2], peers={"cameras/0": "image"})
    assert other.private("cameras/0", "train").y.shape[1] == 4
    assert first == 5


def test_cars_in_no_slot_may_be_listed(tmp_path: Path) -> None:
    root = build(tmp_path / "data")
    counts = make(root).label_counts("cameras/0")
    first = path("RAINY", "2015-11-20", 1, "09.47")
    lines = [f"{first},1600,800,80,160", f"{first},2552,0,80,80", "nowhere.jpg,0,0,8,8"]
    (root / "unlabelled.csv").write_text("\n".join(["Frame,X,Y,W,H", *lines]) + "\n")
    data = make(root)
    train = data.private("cameras/0", "train")
    assert data.frames_of("cameras/0", "train")[0] == first
    assert train.y.shape == (12, 6, 5)  # two slots, their cars, two others
    # An eighth, and the second is cut at the right border.
    assert rows(train.y[0], UNLABELLED) == [(200.0, 100.0, 210.0, 120.0), (319.0, 0.0, 324.0, 10.0)]
    assert rows(train.y[0], 0) == [BOX[5]]
    assert (train.y[1:, :, 4] != UNLABELLED).all()
    assert data.private("cameras/1", "val").y.shape[1:] == (6, 5)
    assert data.label_counts("cameras/0").tolist() == counts.tolist()
    (root / "unlabelled.csv").write_text(f"Frame,X,Y,W,H\n{first},1600,800,80\n")
    with pytest.raises(ConfigError, match=r"line 2 of .*unlabelled.csv' is no row of Frame, X, Y, W, H"):
        make(root).private("cameras/0", "train")


def test_a_frame_without_cars_has_known_areas_only(root: Path) -> None:
    y = make(root).private("cameras/0", "test").y
    assert not (y[..., 4] == 0).any()
    assert ((y[..., 4] == KNOWN).sum(1) == torch.tensor([2, 1, 2, 2])).all()


def test_splits_are_the_published_ones_in_order_of_time(root: Path) -> None:
    data = make(root)
    for split, days in DAYS.items():
        frames = [path(w, d, 2, t) for w, d in sorted(days, key=lambda day: day[1]) for t in TIMES]
        assert data.frames_of("cameras/1", split) == frames
        assert len(data.private("cameras/1", split)) == len(frames)
    assert data.frames_of("cameras/0", "val")[0] == path("SUNNY", "2015-12-01", 1, "09.47")


def test_each_peer_has_the_camera_of_its_place(root: Path) -> None:
    data = make(root, cameras=[2, 1])
    # Frames of camera n are 60 n red, as far as JPEG keeps it.
    for peer, camera in (("cameras/0", 2), ("cameras/1", 1)):
        assert data.camera(peer) == camera
        x = data.private(peer, "val").x.float()
        assert (x[:, 0] - 60 * camera).abs().max() <= 3
        assert (x[:, 1].mean((1, 2)) - 50 * torch.arange(4)).abs().max() <= 3
    # The ids order peers, whatever their names and the order in which they are given.
    renamed = make(root, peers=None)
    renamed.assign({"b": "image", "a": "image"}, {"b": "cameras/0", "a": "cameras/1"})
    assert (renamed.camera("b"), renamed.camera("a")) == (1, 2)
    assert make(root, peers={"x": "image"}).camera("x") == 1


def test_images_are_resized(tmp_path: Path) -> None:
    root = build(tmp_path / "data")
    name = path("SUNNY", "2015-12-01", 1, "09.47")
    half = Image.new("RGB", (400, 300), (0, 0, 0))
    half.paste((255, 255, 255), (200, 0, 400, 300))
    half.save(root / name, quality=95)
    image = make(root, height=6, width=8).private("cameras/0", "val").x[0].float()
    assert image.shape == (3, 6, 8)
    assert image[..., :3].max() < 20
    assert image[..., 5:].min() > 235


def test_what_was_read_is_kept(root: Path) -> None:
    data = make(root)
    train = data.private("cameras/0", "train")
    data.assign({"other": "image"})
    assert data.private("other", "train") is train
    assert data.private("other", "val") is data.private("other", "val")
    assert data.private("other", "val") is not train


def test_counts_are_those_of_the_private_frames(root: Path) -> None:
    # One of two slots is full in each of 12 frames; slot 7 is not seen when it is empty anyway.
    assert make(root).label_counts("cameras/0").tolist() == [12]
    assert make(root).label_counts("cameras/1").tolist() == [6]  # mornings
    few = make(root, public=0.5)
    y = few.private("cameras/1", "train").y
    assert few.label_counts("cameras/1").tolist() == [int((y[..., 4] == 0).sum())]


def test_public_frames_are_nobodys_and_unlabelled(root: Path) -> None:
    whole, data = make(root), make(root, public=0.25)
    public = data.public("train")
    assert set(vars(public)) == {"views", "shown", "looked_through"}
    assert public.views["image"].shape == (6, 3, HEIGHT, WIDTH)  # a quarter of 12 of both cameras
    assert data.public("test") is public
    for k, peer in enumerate(PEERS):
        kept, frames = data.frames_of(peer, "train"), whole.frames_of(peer, "train")
        taken = [i for i, frame in enumerate(frames) if frame not in kept]
        assert (len(kept), len(taken)) == (9, 3)
        assert data.private(peer, "train").ids.tolist() == [i for i in range(12) if i not in taken]
        assert torch.equal(public.views["image"][3 * k : 3 * k + 3], whole.private(peer, "train").x[taken])
        assert data.frames_of(peer, "test") == whole.frames_of(peer, "test")


def test_the_seed_draws_public_frames(root: Path) -> None:
    draws = [make(root, public=0.5, seed=seed).frames_of("cameras/0", "train") for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert any(draw != draws[0] for draw in draws[2:])
    state = torch.random.get_rng_state()
    make(root, public=0.5, seed=7).public("train")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_fewer_frames_are_spread_over_time(root: Path) -> None:
    frames = make(root).frames_of("cameras/0", "train")
    # The middles of four stretches of three frames: 1.5, 4.5, 7.5 and 10.5.
    assert make(root, frames=4).frames_of("cameras/0", "train") == [frames[i] for i in (1, 4, 7, 10)]
    assert make(root, frames=12).frames_of("cameras/0", "train") == frames
    assert make(root, frames=99).frames_of("cameras/0", "train") == frames
    limited = make(root, frames=4, public=0.25)
    assert len(limited.frames_of("cameras/0", "train")) == 3
    assert len(limited.public("train")) == 2
    assert len(limited.frames_of("cameras/0", "val")) == 4


def test_boxes_survive_batches_and_subsets(root: Path) -> None:
    samples = make(root).private("cameras/0", "train")
    part = samples.subset([3, 0])
    assert torch.equal(part.y, samples.y[[3, 0]])
    assert part.take(torch.tensor([1]))[1].dtype == torch.float32


def test_the_published_table_is_checked_by_its_sum(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (root / "CNRPark+EXT.csv").read_bytes()
    assert not make(root).tree.published
    monkeypatch.setattr(cnr_format, "PUBLISHED", (len(content), hashlib.sha256(content).hexdigest()))
    assert make(root).tree.published
    monkeypatch.setattr(cnr_format, "PUBLISHED", (len(content), hashlib.sha256(b"other").hexdigest()))
    with pytest.raises(ConfigError, match="not its SHA-256; get it again"):
        make(root)


def test_frames_that_are_not_there_are_left_out_with_a_warning(tmp_path: Path) -> None:
    root = build(tmp_path / "data")
    name = path("SUNNY", "2015-11-21", 1, "10.17")
    (root / name).unlink()
    with pytest.warns(UserWarning, match=f"1 frames have labels but are not in .*{name}; they are left out"):
        data = make(root)
    assert len(data.frames_of("cameras/0", "train")) == 11
    assert name not in data.frames_of("cameras/0", "train")


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def cut(root: Path) -> None:
    file = root / path("SUNNY", "2015-12-01", 1, "09.47")
    file.write_bytes(file.read_bytes()[:300])


def twice(root: Path) -> None:
    line = (root / "LABELS" / "train.txt").read_text().splitlines()[0]
    with (root / "LABELS" / "test.txt").open("a") as file:
        file.write(line + "\n")


def unlisted(root: Path) -> None:
    for split in DAYS:
        file = root / "LABELS" / f"{split}.txt"
        file.write_text("\n".join(x for x in file.read_text().split("\n") if "camera2" not in x))


def no_validation(root: Path) -> None:
    (root / "LABELS" / "val.txt").write_text("")


TABLE = "CNRPark+EXT.csv"
VAL = "LABELS/val.txt"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            without("camera2.csv"),
            "there is no .*camera2.csv'; it is laid out as published at http://cnrpark.it",
        ),
        (without(TABLE), "there is no .*EXT.csv'; it is laid out"),
        (without(VAL), "val.txt', the published list of a split; it is laid out"),
        (unlisted, "camera 2 has no frame in .* leave it out of cameras"),
        (no_validation, "camera 1 has no val frames"),
        (cut, "2015-12-01_0947.jpg' is no whole JPEG .*unpack it again"),
        (edit(TABLE, "image_url", "url"), "EXT.csv' has no column image_url"),
        (
            edit("camera1.csv", "SlotId", "Slot"),
            "camera1.csv' has no column SlotId; its header must name SlotId, X",
        ),
        (edit("camera1.csv", "5,800", "5,left"), "line 2 of .*camera1.csv' is no row of SlotId, X, Y, W, H"),
        (edit("camera1.csv", "7,-80,1900,160,100\n", "7,-80\n"), "line 3 of .*camera1.csv' is no row"),
        (edit("camera1.csv", "\n7,", "\n8,"), r"has a label for slot 7 .*, which camera1.csv lacks"),
        (
            edit("camera1.csv", "5,800,", "5,2592,"),
            "slot 5 of camera1.csv has no area within 2592 x 1944 pixels",
        ),
        (edit("camera1.csv", "800,400,160", "800,400,0"), "slot 5 of camera1.csv has no area within"),
        (
            edit(TABLE, "camera1/R_", "somewhere/R_"),
            "EXT.csv' names a patch .*somewhere/.* a name is like SUNNY/",
        ),
        (edit(TABLE, "C01_5", "C02_5"), "names a patch"),  # contradicts its folder
        (edit(TABLE, "47,11,1,5", "47,11,2,5"), "a slot's occupancy is '2'; it must be 0 or 1"),
        (edit(TABLE, "47,11,1,5", "47,11,,5"), "a slot's occupancy is ''; it must be 0 or 1"),
        (edit(VAL, ".jpg 1", ".jpg 0"), "val.txt' has the line .*, but CNRPark.* says otherwise"),
        (edit(VAL, "_5.jpg 1", "_6.jpg 1"), "val.txt' has the line .* has no row for it"),
        (edit(VAL, "_09.47_", "_09.48_"), "val.txt' has the line .* has no row for it"),
        (twice, "camera1/2015-11-21_0947.jpg is in two splits, train and test"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_a_line(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    root = build(tmp_path / "data")
    change(root)
    with pytest.raises(ConfigError, match=said) as error:
        make(root).private("cameras/0", "val")
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_says_what_to_get(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no folder '.*nowhere'; .*CNR-EXT_FULL_IMAGE_1000x750.tar .*LABELS/"
    ):
        make(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cameras": [1]}, "2 peers want a camera each, and there are 1"),
        ({"cameras": [1, 1]}, "camera 1 is listed twice"),
        ({"cameras": [1, 3]}, "there is no .*camera3.csv"),
        ({"cameras": []}, "cameras lists none"),
        ({"public": 1.0}, "public must lie in"),
        ({"public": -0.1}, "public must lie in"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"width": 0}, "width must lie in"),
        ({"peers": {"microphones/0": "audio"}}, "reads 'audio', which CnrExt does not have"),
    ],
)
def test_arguments_that_cannot_be_are_said_in_a_line(
    root: Path, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make(root, **arguments).private("cameras/1", "train")


def test_no_public_frames_are_said_when_they_are_asked_for(root: Path) -> None:
    with pytest.raises(ConfigError, match="no public frames; set public to a share"):
        make(root).public("train")


def test_the_tables_of_the_test_are_well_formed(root: Path) -> None:
    """Every line has all columns: the reader was not tested on something else by accident."""
    with (root / TABLE).open() as file:
        widths = {len(row) for row in csv.reader(file)}
    assert widths == {12}

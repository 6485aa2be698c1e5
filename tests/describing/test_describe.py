"""Who owns what: measures of skew by hand, and the command on a table of three modalities."""

from __future__ import annotations

from math import log
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmkd.__main__ import main
from mmkd.describing.ownership import Skew, ownership, skew
from mmkd.describing.table import BARS, MOST, WIDE, bars, table
from tests.data import files
from tests.tiny import TinyData


def of(*counts: list[float]) -> Skew:
    rows = torch.tensor(counts, dtype=torch.float64)
    return skew(rows, [int(n) for n in rows.sum(1)])


def test_peers_that_own_alike_are_not_skewed() -> None:
    found = of([3, 3, 3], [5, 5, 5])
    assert found.distance == 0
    assert found.classes == pytest.approx(3)
    assert found.imbalance == 1


def test_peers_of_one_class_each_differ_from_all_in_all_but_their_own_share() -> None:
    """Half the sum of |1 - 1/4| and three times |0 - 1/4|."""
    found = of([4, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 4])
    assert found.distance == pytest.approx(3 / 4)
    assert found.classes == pytest.approx(1)
    assert found.gini == 0


def test_classes_in_effect_are_those_of_the_entropy() -> None:
    found = of([3, 1], [1, 0])
    entropy = -(0.75 * log(0.75) + 0.25 * log(0.25))
    assert found.classes == pytest.approx((2.718281828459045**entropy + 1) / 2)
    assert found.imbalance == 4
    assert found.distance == pytest.approx((abs(0.75 - 0.8) + abs(1 - 0.8)) / 2)


@pytest.mark.parametrize(
    ("sizes", "gini"), [([1, 1, 1], 0), ([0, 0, 9], 2 / 3), ([1, 3], 1 / 4), ([5], 0), ([0, 0], 0)]
)
def test_gini_of_sizes(sizes: list[int], gini: float) -> None:
    """Mean difference of two peers, for twice the mean."""
    found = skew(torch.tensor(sizes, dtype=torch.float64)[:, None], sizes)
    assert found.gini == pytest.approx(gini)
    assert found.sizes == (min(sizes), sorted(sizes)[(len(sizes) - 1) // 2], max(sizes))


def test_bars_are_as_high_as_shares_and_few_are_never_none() -> None:
    assert bars([8, 4, 0, 0.001]) == BARS[8] + BARS[4] + BARS[0] + BARS[1]
    assert bars([0, 0]) == "  "
    many = bars([1.0] * (WIDE + 1))
    assert len(many) == (WIDE + 2) // 2  # two classes a bar
    assert {*many[:-1]} == {BARS[8]}


def test_of_very_many_peers_the_first_and_the_last_have_lines() -> None:
    data = TinyData(batch_size=8, peers={f"eyes/{i}": "image" for i in range(MOST + 5)})
    data.setup("fit")
    lines = table(ownership(data)).splitlines()
    assert lines[1].split()[0] == "eyes/0"
    assert lines[1 + MOST // 2] == "... 5 more ..."
    assert lines[1 + MOST].split()[0] == f"eyes/{MOST + 4}"


def test_the_command_prints_a_table_and_draws_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sizes in the table add up to the samples that are left to peers."""
    pytest.importorskip("polars")
    files.table(tmp_path / "pets.csv", files.three(tmp_path, 120))
    monkeypatch.chdir(tmp_path)
    main(["new", "--from", "pets.csv"])
    capsys.readouterr()
    arguments = ["-c", "pets-study/data.yaml", "-c", "pets-study/peers.yaml"]
    assert main(["data", "describe", *arguments, "--out", "out/pets.png", "--deep"]) == 0
    said = capsys.readouterr().out.splitlines()
    peers = [line.split() for line in said if "/" in line.split(" ")[0] and not line.startswith("picture")]
    val, test = 12, 24
    public = round(0.2 * (120 - val - test))
    private = 120 - val - test - public
    for modality in ("image", "audio", "text"):
        own = [line for line in peers if line[1] == modality]
        # Of every fourth sample a view is missing, of which draws may leave more or fewer to peers.
        assert abs(sum(int(line[2]) for line in own) - 0.75 * private) < 0.25 * private
    assert any(line.startswith(f"{public} public samples, of which are shown: image ") for line in said)
    assert "3 classes: cat, dog, owl" in said
    with Image.open(tmp_path / "out/pets.png") as picture:
        assert len(picture.getcolors(2**24) or []) > 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "needs data and peers"),
        (["-c", "no.yaml"], "no.yaml"),
        (["--deep", "-c", "{digits}"], "reads no files of its own"),
    ],
)
def test_what_cannot_be_described_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).parents[2] / "configs"
    digits = [str(root / "data/digits.yaml"), "-c", str(root / "peers/trio.yaml")]
    given = [part for argument in arguments for part in (digits if argument == "{digits}" else [argument])]
    assert main(["data", "describe", *given]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("mmkd: ")
    assert said in told

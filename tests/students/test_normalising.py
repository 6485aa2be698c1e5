"""Normalisation: by constants or by each peer's own samples, which nobody else learns of."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.samples import Samples
from mmkd.federated import FedAvg
from mmkd.students import FusionStudent, MotionStudent, TextStudent, VisionStudent
from mmkd.students.normalising import Constants, Normalise
from mmkd.topology import Star
from mmkd.types import SHOWN, ConfigError
from tests.tiny import CLASSES, TinyData, fit, schedule, sgd, trainer


class Images(TinyData):
    """The labels of ``TinyData``; each camera is brighter than the one before."""

    modalities = ("image",)

    def private(self, peer: str, split: str) -> Any:
        mine = super().private(peer, split)
        stream = torch.Generator().manual_seed(len(mine.y))
        x = torch.rand(len(mine.y), 2, 8, 8, generator=stream, dtype=torch.float64)
        return Samples(x * (1 + int(peer[-1])) + torch.tensor([0.0, 1e4])[:, None, None], mine.y)


def own(peer: str) -> Tensor:
    data = Images(batch_size=8)
    data.assign({f"cameras/{i}": "image" for i in range(3)})
    data.setup("fit")
    return data.private(peer, "train").x.transpose(0, 1).flatten(1)


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_own_statistics_are_those_of_the_peer_and_stay_with_it(vectorize: Any, tmp_path: Path) -> None:
    make = partial(VisionStudent, in_chans=2, width=2, normalise="own", optimizer=sgd(0.1))
    cohort = Cohort({"cameras": Fleet(make, 3)}, CLASSES, vectorize=vectorize).double()
    callback = DecentralizedCallback(
        None, FedAvg(), Star(), schedule(local_steps=2, block=2, rounds_per_epoch=2)
    )
    fit(cohort, callback, Images(batch_size=8), max_epochs=1)
    for name in ("cameras/0", "cameras/1", "cameras/2"):
        norm = cohort.student(name).normalise
        torch.testing.assert_close(norm.mean, own(name).mean(1))
        torch.testing.assert_close(norm.std, own(name).std(1, correction=0), rtol=1e-9, atol=0)
    learned = sum(p.numel() for p in cohort.student("cameras/0").parameters())
    assert callback.ledger.total() == 2 * 2 * 3 * 8 * learned  # two rounds, up and down, three peers, float64
    cohort.save_student("cameras/2", tmp_path / "one.ckpt")
    again = VisionStudent.load_from_checkpoint(tmp_path / "one.ckpt")
    torch.testing.assert_close(again.normalise.mean, own("cameras/2").mean(1).float())


def test_a_student_that_trains_alone_looks_as_in_a_cohort() -> None:
    data, student = Images(batch_size=8), VisionStudent(CLASSES, in_chans=2, width=2, normalise="own")
    data.assign({"cameras/0": "image"})
    data.setup("fit")
    trainer(max_epochs=1).fit(student.double(), datamodule=data.only("cameras/0"))
    torch.testing.assert_close(student.normalise.mean, data.private("cameras/0", "train").x.mean((0, 2, 3)))


def test_statistics_do_not_depend_on_how_samples_are_cut() -> None:
    """Of few and of many at once, of large numbers, of one sample, of a channel without a difference."""
    x = 1e6 + torch.randn(37, 3, 5, dtype=torch.float64)
    x[:, 2] = 4.0
    for cuts in ([37], [1, 36], [20, 17], [1] * 37):
        norm = Normalise("own", 3, "T").double()
        norm.learn(iter(x.split(cuts)))
        torch.testing.assert_close(norm.mean, x.mean((0, 2)), rtol=1e-14, atol=0)
        expected = torch.cat([x.std((0, 2), correction=0)[:2], torch.ones(1).double()])
        torch.testing.assert_close(norm.std, expected, rtol=1e-9, atol=0)
        torch.testing.assert_close(norm(x)[:, :2].mean((0, 2)), torch.zeros(2).double(), rtol=0, atol=1e-9)
    norm = Normalise("own", 3, "T")
    norm.learn(iter([]))
    assert torch.equal(norm(torch.ones(1, 3, 2)), torch.ones(1, 3, 2))


def test_a_fusion_looks_at_the_views_that_are_there() -> None:
    fusion = FusionStudent(
        CLASSES,
        encoders={
            "image": partial(VisionStudent, normalise="own"),
            "motion": partial(MotionStudent, channels=3, normalise=Constants([1.0], [2.0])),
            "text": TextStudent,
        },
    )
    assert fusion.looks()
    x = torch.rand(6, 1, 8, 8)
    shown = torch.tensor([True, False, True, True, False, True])
    fusion.look(
        lambda: iter([{"image": x, SHOWN + "image": shown, "text": torch.ones(6, 4).long()}, {"text": 0}])
    )
    torch.testing.assert_close(fusion.encoders["image"].normalise.mean, x[shown].mean((0, 2, 3)))
    assert {"encoders.image.normalise.mean", "encoders.motion.normalise.std"} <= fusion.personal
    assert torch.equal(
        fusion.encoders["motion"].normalise(torch.full((1, 3, 2), 5.0)), torch.full((1, 3, 2), 2.0)
    )


def test_constants_are_those_that_were_published() -> None:
    card = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, as torchvision's documentation has them
    colour = VisionStudent(CLASSES, backbone="resnet10t", in_chans=3, normalise="published").normalise
    torch.testing.assert_close((colour.mean, colour.std), tuple(map(torch.tensor, card)))
    grey = VisionStudent(CLASSES, backbone="resnet10t", in_chans=1, normalise="published").normalise
    torch.testing.assert_close(grey.mean, torch.tensor([sum(card[0]) / 3]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mean": [0.0], "sd": [1.0]}, "no setting 'sd'"),
        ({"mean": [0.0]}, "lacks std"),
        ({"mean": [0.0], "std": [0.0]}, "std must be above 0"),
        ({"mean": [0.0, 1.0], "std": [1.0]}, "normalise.mean is 2 numbers, and samples have 3"),
        ("published", "nothing is published of 'small_cnn'"),
    ],
)
def test_slips_are_one_line(given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        VisionStudent(CLASSES, in_chans=3, normalise=given)

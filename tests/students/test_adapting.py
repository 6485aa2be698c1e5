"""Frozen encoders and adapters: what is not trained stays as it is in every way of training, and is not sent."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.groups.base import travels
from mmkd.data.samples import Samples
from mmkd.federated import FedAvg
from mmkd.students import AudioStudent, FusionStudent, MotionStudent, TextStudent, VisionStudent
from mmkd.students.adapting import Lora
from mmkd.topology import Star
from mmkd.types import ConfigError
from tests.tiny import CLASSES, TinyData, fit, schedule, sgd

NORMALISED = partial(VisionStudent, norm="batch")
BERT = partial(
    TextStudent,
    vocabulary=32,
    transformers={
        "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 16,
    },
)  # fmt: skip
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "frozen convolutions": (VisionStudent, "head", torch.rand(500, 1, 8, 8)),
    "frozen dropout": (BERT, "head", torch.randint(1, 32, (500, 8))),
    "frozen statistics": (NORMALISED, "head", torch.rand(500, 1, 8, 8)),
    "adapted convolutions": (VisionStudent, Lora(rank=2), torch.rand(500, 1, 8, 8)),
    "adapted statistics": (NORMALISED, Lora(rank=1), torch.rand(500, 1, 8, 8)),
    "adapted attention": (BERT, Lora(rank=2, layers=["query", "value"]), torch.randint(1, 32, (500, 8))),
    "frozen A": (BERT, Lora(rank=2, layers=["query"], only_b=True), torch.randint(1, 32, (500, 8))),
}


class Other(TinyData):
    """The labels of ``TinyData`` with samples of another form."""

    def __init__(self, x: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.x = x.double() if x.is_floating_point() else x

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.pool = Samples(self.x[:300], self.pool.y)
        self.held_out = Samples(self.x[300:400], self.held_out.y)


def trained(
    kind: str, vectorize: Any, **kwargs: Any
) -> tuple[Cohort, dict[str, Tensor], DecentralizedCallback]:
    make, what, x = KINDS[kind]
    modality = "text" if make is BERT else "image"
    data = type("Data", (Other,), {"modalities": (modality,)})(x, batch_size=8)
    fleet = Fleet(lambda n: make(n, trained=what, optimizer=sgd(0.1)), 2)
    cohort = Cohort({"cameras": fleet}, CLASSES, vectorize=vectorize, **kwargs).double()
    before = {name: tensor.clone() for name, tensor in cohort.state_dict().items()}
    callback = DecentralizedCallback(
        None, FedAvg(), Star(), schedule(local_steps=2, block=2, rounds_per_epoch=2)
    )
    fit(cohort, callback, data, max_epochs=1)
    return cohort, before, callback


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_trained_changes_and_travels(kind: str) -> None:
    cohort, before, callback = trained(kind, "never")
    student, after = cohort.student("cameras/0"), cohort.state_dict()
    learned = {name for name, p in student.named_parameters() if p.requires_grad}
    assert any("encoder" in name for name in learned) == ("frozen" not in kind or kind == "frozen A")
    for name in student.state_dict().keys() - {"log_prior"}:  # the prior is the peer's own
        key = f"peers.cameras/0.{name}"
        assert torch.equal(before[key], after[key]) == (name not in learned), name
    # Two rounds of two peers, up and down, in 8 bytes a number: what is trained, and nothing else.
    assert callback.ledger.total() == 2 * 2 * 2 * 8 * sum(
        p.numel() for p in student.parameters() if p.requires_grad
    )


def test_a_frozen_encoder_evaluates_and_a_checkpoint_brings_adapters_back(tmp_path: Path) -> None:
    student = BERT(CLASSES, trained="head").train()
    assert student.training
    assert student.dropout.training
    assert not any(module.training for module in student.encoder.modules())
    x = torch.randint(1, 32, (4, 8))
    assert torch.equal(student(x), student(x))  # BERT's own dropout is off
    cohort, _, _ = trained("adapted attention", "always")
    cohort.save_student("cameras/1", tmp_path / "one.ckpt")
    again = TextStudent.load_from_checkpoint(tmp_path / "one.ckpt").double().eval()
    # Made in single precision.
    torch.testing.assert_close(again(x), cohort.student("cameras/1").eval()(x), rtol=0, atol=1e-6)
    assert again.hparams["trained"] == {**vars(KINDS["adapted attention"][1])}


def test_encoders_of_a_fusion_stay_frozen_and_still() -> None:
    fusion = FusionStudent(
        CLASSES,
        encoders={
            "image": lambda n: NORMALISED(n, trained="head"),
            "text": lambda n: BERT(n, trained=Lora(rank=1)),
        },
    ).train()
    learned = {name for name, p in fusion.named_parameters() if p.requires_grad}
    assert not any(name.startswith("encoders.image") for name in learned)
    assert all(".lora_" in name for name in learned if name.startswith("encoders.text"))
    assert not any(module.training for module in fusion.encoders["image"].encoder.modules())
    sent = travels(fusion, buffers=True)
    assert set(sent) == learned


def test_averages_of_b_alone_are_averages_of_what_adapters_do() -> None:
    """FFA-LoRA: with one A, mean(B) A = mean(B A); with own ones it is not."""
    students = [BERT(CLASSES, trained=Lora(rank=2, layers=["query"], only_b=True)) for _ in range(2)]
    layers = [s.encoder.model.encoder.layer[0].attention.self.query for s in students]
    b = [torch.randn_like(layer.lora_B["default"].weight) for layer in layers]
    layers[1].load_state_dict(layers[0].state_dict())
    for layer, weight in zip(layers, b, strict=True):
        layer.lora_B["default"].weight.data = weight
    mean = sum(layer.get_delta_weight("default") for layer in layers) / 2
    layers[0].lora_B["default"].weight.data = (b[0] + b[1]) / 2
    torch.testing.assert_close(layers[0].get_delta_weight("default"), mean)


@pytest.mark.parametrize("student", [VisionStudent, AudioStudent, MotionStudent])
def test_adapters_change_nothing_at_first_and_are_few(student: Any) -> None:
    torch.manual_seed(0)
    plain = student(CLASSES).eval()
    torch.manual_seed(0)
    adapted = student(CLASSES, trained=Lora(rank=1)).eval()
    shape = {"image": (2, 1, 8, 8), "audio": (2, 400), "motion": (2, 6, 50)}[plain.modalities[0]]
    # The heads are drawn before the adapters, and B is zero.
    assert torch.equal(plain(torch.ones(shape)), adapted(torch.ones(shape)))
    few, all_ = (sum(p.numel() for p in s.parameters() if p.requires_grad) for s in (adapted, plain))
    assert few < all_ / 2


def test_slips_are_one_line() -> None:
    with pytest.raises(ConfigError, match="no layer 'querry'; did you mean"):
        BERT(CLASSES, trained=Lora(layers=["querry"]))
    with pytest.raises(ConfigError, match="Lora has no setting 'rnk'; did you mean rank"):
        BERT(CLASSES, trained={"rnk": 2})
    with pytest.raises(ConfigError, match="Lora: rank must lie"):
        BERT(CLASSES, trained={"rank": 0})
    with pytest.raises(ConfigError, match=r"VisionStudent: .*not supported"):
        VisionStudent(CLASSES, trained=Lora(layers=["net.1"]))


@pytest.mark.parametrize("kind", ["frozen statistics", "adapted statistics", "adapted convolutions"])
def test_ways_of_training_agree(kind: str) -> None:
    """Models whose random layers are off, so that ways draw nothing differently."""
    one, _, _ = trained(kind, "never")
    for way in ({"vectorize": "always"}, {"vectorize": "always", "compile": "record"}):
        other, _, _ = trained(kind, **way)
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor, other.state_dict()[name], rtol=0, atol=1e-10, msg=name)

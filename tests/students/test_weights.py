"""Initial weights: from a file, published, or out of reach."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from mmkd.students import TextStudent, VisionStudent, published
from mmkd.types import ConfigError


@pytest.mark.parametrize(("backbone", "size"), [("test_resnet", None), ("test_vit", 32)])
def test_what_timm_published_is_where_a_student_begins(
    backbone: str, size: int | None, tmp_path: Path
) -> None:
    """Its classifier is left out; another number of channels, or size of an image, is timm's to adapt."""
    model: Any = timm.create_model(backbone)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.bin")
    for file in ("model.safetensors", "model.bin"):
        student = VisionStudent(
            5, backbone=backbone, weights=str(tmp_path / file), in_chans=3, image_size=size
        )
        state = student.encoder.state_dict()
        assert 0 < len(state) < len(model.state_dict())
        for name, tensor in state.items():
            if tensor.shape == model.state_dict()[name].shape:
                assert torch.equal(tensor, model.state_dict()[name])
        grey = VisionStudent(5, backbone=backbone, weights=str(tmp_path / file), image_size=size)
        stem = next(name for name, t in state.items() if t.dim() == 4)
        # timm adds the channels up, so that a grey image is seen as it was.
        torch.testing.assert_close(grey.encoder.state_dict()[stem], state[stem].sum(1, keepdim=True))
        assert student.hparams["weights"] is None


def test_what_is_no_such_file_is_one_line(tmp_path: Path) -> None:
    own = VisionStudent(5, width=8)
    path = str(tmp_path / "own.ckpt")
    torch.save({"state_dict": own.state_dict()}, path)
    again = VisionStudent(5, width=8, weights=path)
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in own.state_dict().items())
    state = timm.create_model("test_resnet", in_chans=1).state_dict()
    torch.save({**state, "bn1.weight": torch.zeros(2)}, tmp_path / "shape.bin")
    torch.save({n: t for n, t in state.items() if n != "bn1.weight"}, tmp_path / "less.bin")
    torch.save({"epoch": 3}, tmp_path / "number.bin")
    (tmp_path / "text.bin").write_text("nothing of the kind")
    (tmp_path / "text.safetensors").write_text("nothing of the kind")
    for settings, said in [
        ({"weights": path}, "of another network"),
        ({"weights": str(tmp_path / "shape.bin")}, "of another network"),
        ({"weights": str(tmp_path / "less.bin")}, "of another network"),
        ({"weights": str(tmp_path / "number.bin")}, "'epoch' is no tensor"),
        ({"weights": str(tmp_path / "text.bin")}, "holds no weights"),
        ({"weights": str(tmp_path / "text.safetensors")}, "holds no weights"),
        ({"weights": str(tmp_path / "none.bin")}, "there is no file"),
        ({"weights": path, "pretrained": True}, "remove pretrained or weights"),
        ({"backbone": "test_resne"}, "did you mean test_resnet?"),
        ({"backbone": "vit_tiny"}, "did you mean vit_tiny_patch16_224, "),
    ]:
        with pytest.raises(ConfigError, match=said) as error:
            VisionStudent(5, **{"backbone": "test_resnet", **settings})  # type: ignore[arg-type]
        assert len(str(error.value).splitlines()) == 1


def test_without_a_network_it_ends_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of both libraries; what is in the cache, or a folder, needs none."""
    from huggingface_hub import constants

    monkeypatch.setattr(published, "reachable", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    start = time.monotonic()
    for make in (
        lambda: VisionStudent(5, backbone="resnet10t", pretrained=True),
        lambda: TextStudent(5, pretrained="somebody/model"),
    ):
        with pytest.raises(ConfigError, match="the network cannot be reached"):
            make()
    with pytest.raises(ConfigError, match=r"no pretrained model at '\./model'"):
        TextStudent(5, pretrained="./model")
    assert time.monotonic() - start < 5
    assert not constants.HF_HUB_OFFLINE

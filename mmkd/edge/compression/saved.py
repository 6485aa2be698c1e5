"""A compressed student as a folder: its tensors, and from which run, peer and recipe it comes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmkd.edge.compression.base import LAYERS, said
from mmkd.edge.compression.factored import empty_factors
from mmkd.edge.compression.recipe import Recipe
from mmkd.edge.trained import Trained
from mmkd.files import replacing
from mmkd.students.base import Student
from mmkd.types import ConfigError, PeerName, Views

ABOUT = "compressed.json"
"""File that says from what a student was compressed."""
TENSORS = "student.safetensors"
"""File of its tensors."""


class Saved(NamedTuple):
    """A compressed student that was read."""

    peer: PeerName
    student: Student
    format: str  # of the file that its recipe ends with
    said: str  # the recipe in words


def write(
    student: Student, run: Trained, peer: PeerName, recipe: Recipe, folder: Path, example: Views
) -> None:
    """Write a compressed student, once it is found that it can be made again from its tensors.

    Raises:
        ConfigError: it cannot, or the folder holds something else.
    """
    if folder.exists() and not (folder / ABOUT).is_file():
        raise ConfigError(f"{folder} is there and holds no compressed student; give another name")
    tensors = {name: t.detach().clone().contiguous() for name, t in student.state_dict().items()}
    again = rebuilt(run.student(peer), tensors, str(folder))
    with torch.no_grad():
        if any(
            not torch.equal(a, b) for a, b in zip(said(student, example), said(again, example), strict=True)
        ):
            raise ConfigError(
                f"a {type(student).__name__} so compressed cannot be made again from its tensors"
            )
    about = {
        "peer": peer, "run": run.name, "checkpoint": run.checkpoint, "format": recipe.format,
        "steps": recipe.words, "distil": recipe.distil, "heal": recipe.heal, "rate": recipe.rate,
    }  # fmt: skip
    with replacing(folder / TENSORS) as part:
        save_file(tensors, part)
    with replacing(folder / ABOUT) as part:
        part.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(folder: Path, run: Trained) -> Saved:
    """Read a compressed student.

    Raises:
        ConfigError: the folder holds none, or one of a peer that the run does not have so.
    """
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        peer, form = str(about["peer"]), str(about["format"])
        words = ", ".join(map(str, about["steps"])) or "whole"
        words += f"; {about['heal']} local steps, distil {about['distil']}"
        tensors = load_file(folder / TENSORS)
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} holds no compressed student: mmkd compress writes one") from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigError(
            f"{folder} holds no whole compressed student: {' '.join(str(error).split())}"
        ) from error
    return Saved(peer, rebuilt(run.student(peer), tensors, str(folder)), form, words)


def rebuilt(student: Student, tensors: Mapping[str, Tensor], where: str) -> Student:
    """A student with these tensors, whose layers take the sizes that the tensors have.

    Args:
        student: as the configuration makes it; is changed in place.
        tensors: of its ``state_dict`` when it was compressed.
        where: they come from, for messages.

    Raises:
        ConfigError: they are of another student.
    """
    for name, module in list(student.named_modules()):
        if isinstance(module, LAYERS) and (thin := tensors.get(f"{name}.0.weight")) is not None:
            student.set_submodule(name, nn.Sequential(*empty_factors(module, len(thin))))
    for name, module in student.named_modules():
        prefix = f"{name}." if name else ""
        own = {n: tensors[prefix + n] for n in _own(module) if prefix + n in tensors}
        for kind in (module._parameters, module._buffers):
            for n, tensor in own.items():
                before = kind.get(n)
                if before is not None and before.shape != tensor.shape:
                    fresh = torch.empty_like(tensor)
                    kind[n] = nn.Parameter(fresh) if isinstance(before, nn.Parameter) else fresh
        _resize(module)
    try:
        student.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"the tensors in {where} are of another student: {reason}") from error
    return student.eval()


def _own(module: nn.Module) -> list[str]:
    return [n for n, t in [*module._parameters.items(), *module._buffers.items()] if t is not None]


def _resize(module: nn.Module) -> None:
    """Let a layer know of how many numbers its tensors are."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv1d | nn.Conv2d):
        outputs, inputs = module.weight.shape[:2]
        if module.groups > 1 and module.groups == module.in_channels:  # each channel by itself
            module.groups = outputs * module.groups // module.out_channels
        module.out_channels, module.in_channels = outputs, inputs * module.groups
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.weight is not None:
        module.num_features = len(module.weight)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_channels = len(module.weight)
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape

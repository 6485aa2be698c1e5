"""Detectors of the transformers library that predict a set: RT-DETR, D-FINE and YOLOS, with random weights.

All three are under the Apache licence 2.0. None needs non-maximum suppression, for each object is found by
one query.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from mmkd.functional.detection.boxes import cornered
from mmkd.functional.detection.set_prediction import sigmoid_set_loss, softmax_set_loss
from mmkd.students.detectors.base import Detector, Found, Goal, Maps
from mmkd.students.detectors.dense import MEAN, STD, log_odds, slots
from mmkd.students.hub import configuration
from mmkd.types import ConfigError


class Layer(NamedTuple):
    """What the queries say after a layer of the decoder."""

    logits: Float[Tensor, "batch queries outcomes"]
    boxes: Float[
        Tensor, "batch queries 4"
    ]  # x, y, width, height of the centre, as shares of the padded frame


class Said(NamedTuple):
    """What the network says of a batch."""

    layers: tuple[Layer, ...]  # the last one is the answer, the others only learn
    size: tuple[int, int]  # height and width of the frames
    padded: tuple[int, int]  # and with the padding

    def pixels(self) -> Float[Tensor, " sides"]:
        """What turns shares of the padded frame into pixels."""
        height, width = self.padded
        return self.layers[-1].boxes.new_tensor([width, height, width, height])


class SetDetector(Detector):
    """A transformers model that predicts a set.

    Frames are padded at the right and at the bottom to a multiple of its stride.

    Args:
        model: called with frames, has ``config``.
        num_classes: without the absence of an object.
        stride: of its coarsest feature map, in pixels.
        detections: slots of the answer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, num_classes: int, *, stride: int, detections: int) -> None:
        super().__init__()
        self.model: Any = model
        self.num_classes = num_classes
        self.stride, self.detections = stride, detections
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def outputs(self, x: Float[Tensor, "batch 3 height width"]) -> Said:
        """What each layer's queries say.

        Raises:
            ConfigError: the frames have fewer places than the model has queries.
        """
        height, width = x.shape[-2:]
        x = F.pad((x - self.mean) / self.std, (0, -width % self.stride, 0, -height % self.stride))
        return Said(self.layers(x), (height, width), (x.shape[-2], x.shape[-1]))

    @abstractmethod
    def layers(self, x: Float[Tensor, "batch 3 height width"]) -> tuple[Layer, ...]:
        """What the queries say of normalised frames after each layer that learns."""

    @abstractmethod
    def layer_loss(self, layer: Layer, goal: Goal) -> Float[Tensor, ""]:
        """Set loss of one layer; the goal's boxes are shares of the padded frame."""

    def loss(self, outputs: Said, goal: Goal) -> Float[Tensor, ""]:
        """Sum of all layers' set losses, each with a matching of its own; over the batch's weights."""
        goal = goal._replace(boxes=goal.boxes / outputs.pixels())
        return torch.stack([self.layer_loss(layer, goal) for layer in outputs.layers]).sum()

    def maps(self, outputs: Said) -> Maps:
        """What the queries of the last layer say."""
        logits, boxes = outputs.layers[-1]
        return Maps(logits, cornered(boxes) * outputs.pixels())

    @torch.no_grad()
    def found(self, outputs: Said) -> Found:
        """The queries that are surest of a class."""
        logits, boxes = self.maps(outputs)
        scores, labels = logits.sigmoid().max(-1)
        height, width = outputs.size
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        return slots(boxes, scores, labels, self.detections, nms=None, least=0.0)


class HybridDetector(SetDetector):
    """What RT-DETR and D-FINE share: a backbone, an encoder of three scales, and queries chosen among places.

    The encoder's own proposals learn as one layer more; they choose the queries, and learn from nothing else.

    Args:
        defaults: entries of the model's configuration.
        config: entries that replace them; those of ``backbone_config`` one by one, unless its
            ``model_type`` is another.
        num_classes: without the absence of an object.
        detections: slots of the answer.

    Raises:
        ConfigError: an entry is unknown, or would have no effect.
    """

    def __init__(
        self, defaults: Mapping[str, Any], config: Mapping[str, Any] | None, num_classes: int, detections: int
    ) -> None:
        entries = _entries(defaults, config, num_classes)
        backbone: dict[str, Any] = dict(entries["backbone_config"])
        usual = defaults["backbone_config"]
        if backbone.get("model_type", usual["model_type"]) == usual["model_type"]:
            backbone = {**usual, **backbone}
        if "stage_out_channels" in backbone:
            # HGNetV2 asks for the same numbers twice.
            backbone["hidden_sizes"] = backbone["stage_out_channels"]
        entries["backbone_config"] = configuration(backbone)
        entries["decoder_in_channels"] = [entries["encoder_hidden_dim"]] * 3
        model = _model(entries, tie_word_embeddings=False, num_denoising=0)
        # The decoder has these heads, one a layer; the model's own copies are never read.
        del model.class_embed, model.bbox_embed
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                # The library draws RT-DETR's scales around 0; in the authors' code they start at 1.
                module.reset_parameters()
        super().__init__(model, num_classes, stride=max(model.config.feat_strides), detections=detections)

    def layers(self, x: Float[Tensor, "batch 3 height width"]) -> tuple[Layer, ...]:
        """The encoder's proposals, then each layer of the decoder."""
        config = self.model.config
        places = sum((x.shape[-2] // s) * (x.shape[-1] // s) for s in config.feat_strides)
        if places < config.num_queries:
            raise ConfigError(
                f"frames of {x.shape[-2]} x {x.shape[-1]} pixels have {places} places; set num_queries to"
                f" {places} or less"
            )
        out: Any = self.model(x)
        layers = zip(
            out.intermediate_logits.unbind(1), out.intermediate_reference_points.unbind(1), strict=True
        )
        return (Layer(out.enc_topk_logits, out.enc_topk_bboxes), *(Layer(*layer) for layer in layers))

    def layer_loss(self, layer: Layer, goal: Goal) -> Float[Tensor, ""]:
        """Varifocal, L1 and GIoU."""
        return sigmoid_set_loss(*layer, *goal, linear_sum_assignment)


class RTDetr(HybridDetector):
    """RT-DETR v2 (Zhao et al. 2024; Lv et al. 2024), by default with 0.8 M parameters.

    It learns without denoising queries, which would need labels in the forward pass.

    Args:
        num_classes: without the absence of an object.
        config: entries of transformers' ``RTDetrV2Config`` that replace the defaults; the width is
            ``encoder_hidden_dim``, ``d_model`` and the backbone's.
        detections: slots of the answer.

    Raises:
        ConfigError: an entry is unknown, or would have no effect.
    """

    def __init__(
        self, num_classes: int, *, config: Mapping[str, Any] | None = None, detections: int = 50
    ) -> None:
        resnet = {
            "model_type": "rt_detr_resnet",
            "layer_type": "basic",
            "embedding_size": 16,
            "hidden_sizes": [16, 32, 64, 128],
            "depths": [1, 1, 1, 1],
            "out_indices": [2, 3, 4],
        }
        super().__init__(
            {**SMALL, "model_type": "rt_detr_v2", "backbone_config": resnet}, config, num_classes, detections
        )


class DFine(HybridDetector):
    """D-FINE (Peng et al. 2025), by default with 0.8 M parameters.

    Its box heads learn from L1 and GIoU alone: the paper's fine-grained localisation and self-distillation
    losses (FGL, DDF) and its denoising queries are left out. In evaluation only the last layer is computed,
    so a validation loss has fewer terms.

    Args:
        num_classes: without the absence of an object.
        config: entries of transformers' ``DFineConfig`` that replace the defaults.
        detections: slots of the answer.

    Raises:
        ConfigError: an entry is unknown, or would have no effect.
    """

    def __init__(
        self, num_classes: int, *, config: Mapping[str, Any] | None = None, detections: int = 50
    ) -> None:
        hgnet = {
            "model_type": "hgnet_v2",
            "stem_channels": [3, 16, 16],
            "stage_in_channels": [16, 64, 128, 192],
            "stage_mid_channels": [16, 32, 48, 64],
            "stage_out_channels": [64, 128, 192, 256],
            "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [3, 3, 3, 3],
            "out_indices": [2, 3, 4],
        }
        super().__init__(
            {**SMALL, "model_type": "d_fine", "backbone_config": hgnet}, config, num_classes, detections
        )


SMALL = {
    "encoder_hidden_dim": 64,
    "encoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "hidden_expansion": 0.5,
    "d_model": 64,
    "decoder_ffn_dim": 128,
    "decoder_attention_heads": 4,
    "decoder_layers": 3,
    "num_queries": 50,
    "freeze_backbone_batch_norms": False,
    # Of the papers; the library's own depends on the number of classes, and few of them start far too sure.
    "initializer_bias_prior_prob": 0.01,
}
"""What RT-DETR and D-FINE start from; widths are a quarter of the papers'."""


class Yolos(SetDetector):
    """YOLOS (Fang et al. 2021): a vision transformer with a token a query, by default with 1.2 M parameters.

    Args:
        num_classes: without the absence of an object.
        size: height and width of the frames; others get resampled position embeddings.
        config: entries of transformers' ``YolosConfig`` that replace the defaults.
        detections: slots of the answer.

    Raises:
        ConfigError: an entry is unknown, or would have no effect.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        size: tuple[int, int],
        config: Mapping[str, Any] | None = None,
        detections: int = 50,
    ) -> None:
        defaults = {
            "model_type": "yolos",
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_detection_tokens": 50,
            "patch_size": 16,
            "use_mid_position_embeddings": False,
        }
        entries = _entries(defaults, config, num_classes)
        stride = int(entries["patch_size"])
        model = _model(entries, image_size=[side + -side % stride for side in size])
        for name, value in model.vit.named_parameters():
            if "token" in name or "position" in name:
                # The library leaves them at 0, where all queries are one; the paper draws them.
                nn.init.trunc_normal_(value, std=0.02)
        super().__init__(model, num_classes, stride=stride, detections=detections)

    def layers(self, x: Float[Tensor, "batch 3 height width"]) -> tuple[Layer, ...]:
        """The last layer alone, as in the paper."""
        out: Any = self.model(x)
        return (Layer(out.logits, out.pred_boxes),)

    def layer_loss(self, layer: Layer, goal: Goal) -> Float[Tensor, ""]:
        """Cross entropy, L1 and GIoU."""
        return softmax_set_loss(*layer, *goal, linear_sum_assignment)

    def maps(self, outputs: Said) -> Maps:
        """Log-odds of each class against all else, the absence of an object too."""
        logits, boxes = super().maps(outputs)
        return Maps(log_odds(logits.log_softmax(-1)[..., :-1]), boxes)


OURS = ("model_type", "num_labels", "image_size", "decoder_in_channels", "tie_word_embeddings")
"""Entries of a library's configuration that a detector sets."""
LOSS = ("loss", "cost", "matcher", "denoising", "noise", "eos")
"""Parts of the names of entries that only the library's own loss reads."""


def _entries(
    defaults: Mapping[str, Any], config: Mapping[str, Any] | None, num_classes: int
) -> dict[str, Any]:
    for name in config or {}:
        if name in OURS or any(part in name for part in LOSS):
            raise ConfigError(f"a detector sets or ignores the entry '{name}'; remove it from config")
    return {**defaults, **(config or {}), "num_labels": num_classes}


def _model(entries: Mapping[str, Any], **ours: Any) -> Any:
    from transformers import AutoModelForObjectDetection

    auto: Any = AutoModelForObjectDetection
    return auto.from_config(configuration({**entries, **ours}), attn_implementation="eager")

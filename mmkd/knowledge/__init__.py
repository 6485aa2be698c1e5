"""Knowledge: what peers teach."""

from mmkd.encoding.statements import EightBits, Floats, TopClasses, Wire
from mmkd.knowledge.base import Heard, Knowledge, Statement, Statements
from mmkd.knowledge.consensus import (
    Consensus,
    EntropyReduction,
    EveryTeacher,
    MeanLogit,
    MeanProbability,
    MostConfident,
)
from mmkd.knowledge.detections import DenseDetections, PseudoLabels, SharedDetections
from mmkd.knowledge.losses import (
    Correlation,
    Decoupled,
    DistillationLoss,
    KullbackLeibler,
    LogitDistance,
    LogitMatching,
    Standardised,
)
from mmkd.knowledge.multi_head import MultiHeadDistillation
from mmkd.knowledge.prototypes import Prototypes
from mmkd.knowledge.shared_logits import SharedLogits
from mmkd.knowledge.shared_values import SharedTags, SharedValues
from mmkd.types import Target

__all__ = [
    "Consensus",
    "Correlation",
    "Decoupled",
    "DenseDetections",
    "DistillationLoss",
    "EightBits",
    "EntropyReduction",
    "EveryTeacher",
    "Floats",
    "Heard",
    "Knowledge",
    "KullbackLeibler",
    "LogitDistance",
    "LogitMatching",
    "MeanLogit",
    "MeanProbability",
    "MostConfident",
    "MultiHeadDistillation",
    "Prototypes",
    "PseudoLabels",
    "SharedDetections",
    "SharedLogits",
    "SharedTags",
    "SharedValues",
    "Standardised",
    "Statement",
    "Statements",
    "Target",
    "TopClasses",
    "Wire",
]

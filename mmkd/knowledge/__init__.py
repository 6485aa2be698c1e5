"""What peers teach."""

from mmkd.knowledge.base import Knowledge, Targets
from mmkd.knowledge.shared_logits import (
    Consensus,
    MeanLogit,
    MeanProbability,
    MostConfident,
    SharedLogits,
)

__all__ = [
    "Consensus",
    "Knowledge",
    "MeanLogit",
    "MeanProbability",
    "MostConfident",
    "SharedLogits",
    "Targets",
]

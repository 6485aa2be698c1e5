"""The LightningModule of many peers."""

from mmkd.cohort.cohort import Cohort
from mmkd.cohort.fleet import Fleet

__all__ = ["Cohort", "Fleet"]

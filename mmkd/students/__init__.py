"""Students: LightningModules that train alone or in a cohort."""

from mmkd.students.base import Classifier, Student

__all__ = ["Classifier", "Student"]

"""Students: LightningModules that train alone or in a cohort."""

from mmkd.students.audio import AudioStudent
from mmkd.students.base import Classifier, Student
from mmkd.students.detection import DetectionStudent
from mmkd.students.fusion import FusionStudent
from mmkd.students.motion import MotionStudent
from mmkd.students.outputs import Regressor, Tagger
from mmkd.students.schedules import WarmupCosine
from mmkd.students.text import TextStudent
from mmkd.students.vision import VisionStudent

__all__ = [
    "AudioStudent",
    "Classifier",
    "DetectionStudent",
    "FusionStudent",
    "MotionStudent",
    "Regressor",
    "Student",
    "Tagger",
    "TextStudent",
    "VisionStudent",
    "WarmupCosine",
]

"""How things become bytes: statements, samples left out, weights, messages."""

from mmkd.encoding.statements import EightBits, Floats, TopClasses, Wire
from mmkd.encoding.weights import Compression, Quantise, TopK

__all__ = ["Compression", "EightBits", "Floats", "Quantise", "TopClasses", "TopK", "Wire"]

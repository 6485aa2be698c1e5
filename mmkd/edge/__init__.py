"""The edge: students as files that run without mmkd and without torch."""

from mmkd.edge.asking import Answer, Cascade
from mmkd.edge.compression.recipe import Recipe, compressed
from mmkd.edge.exported import Exported
from mmkd.edge.exporting import export
from mmkd.edge.graph import Graph
from mmkd.edge.ondevice import OnDevice
from mmkd.edge.remembering import RequestCache

__all__ = [
    "Answer",
    "Cascade",
    "Exported",
    "Graph",
    "OnDevice",
    "Recipe",
    "RequestCache",
    "compressed",
    "export",
]

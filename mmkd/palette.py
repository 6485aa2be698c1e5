"""The colours of figures, pages and pictures."""

from __future__ import annotations

BLACK = "#000000"
INK, MUTED, LINE, PAPER = "#24292e", "#656d76", "#d9dee3", "#ffffff"
"""Letters, letters of less weight, the lines of grids and tables, and what all of it stands on."""
DARK = {INK: "#e3e6ea", MUTED: "#98a1ab", LINE: "#363c44", PAPER: "#15181c"}
"""What stands for each of the four on a dark page."""

BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY, YELLOW, GREY = "#e69f00", "#56b4e9", "#f0e442", "#999999"
DISTINCT = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
"""Colours of methods. They are those of Okabe and Ito, which colour-blind readers tell apart."""

OBJECTS, DETECTIONS = "#5ac85a", "#f0781e"
"""Boxes on photographs, brighter than lines on paper are."""

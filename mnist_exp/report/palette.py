"""Colours of charts and plots. They are from Okabe and Ito's palette, which is safe for colour-blind readers."""

from __future__ import annotations

TRAIN, VALIDATION, MARK = "#0072B2", "#D55E00", "#009E73"
GROUPS = (TRAIN, VALIDATION, MARK, "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # no yellow: too pale on white
RIGHT, WRONG = TRAIN, VALIDATION
"""The colours of correct predictions and of mistakes in a confusion matrix."""
RAREST = 0.25
"""The strength of the colour of the rarest mistakes; that of the most frequent ones is 1."""
RAMP = ("#E69F00", "#c99b45", "#a39a8a", "#7f97ab", "#4c87b3", TRAIN)
"""From low to high values, readable on light and dark paper."""

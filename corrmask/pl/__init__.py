"""Figures of graphs, masks, training and scores. Needs matplotlib (``corrmask[eval]``); pyplot is never touched.

Every function draws into `ax`, or into a new figure without it, and returns the axes: ``pl.save(ax, "name.png")``.
"""

from corrmask.pl.graphs import degree, heatmap_modules
from corrmask.pl.masks import group_sizes, leakage, mask_frequency
from corrmask.pl.scores import embedding, f1_by_abundance, loss_curves
from corrmask.pl.speed import collator_speed
from corrmask.pl.style import ARM_COLOURS, arm_colour, save

__all__ = [
    "ARM_COLOURS",
    "arm_colour",
    "collator_speed",
    "degree",
    "embedding",
    "f1_by_abundance",
    "group_sizes",
    "heatmap_modules",
    "leakage",
    "loss_curves",
    "mask_frequency",
    "save",
]

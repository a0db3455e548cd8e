"""What all figures share: each arm has one colour, of a palette for colour-blind readers too (Okabe, Ito, 2008)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.files import check_place, explain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARM_COLOURS = {
    "random": "#7f7f7f",
    "weighted": "#e69f00",
    "corr": "#0072b2",
    "levelled": "#56b4e9",
    "module": "#009e73",
    "rewired": "#d55e00",
}
OTHERS = ("#cc79a7", "#f0e442", "#000000", "#8a6d00", "#882255", "#44aa99")
LABELS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#332288", "#999933", "#882255", "#44aa99")
MARKERS = "osD^vPX<>*"
GREY = "#bdbdbd"


@checked
def save(ax: Axes, path: str | Path) -> None:
    """Write the figure of `ax`; the suffix decides the format. The same figure has the same bytes (png, svg, pdf).

    Raises
    ------
    InputError
        matplotlib does not write such a file, or its folder is missing or not writable.
    """
    import matplotlib

    kind = Path(path).suffix.lower().removeprefix(".")
    known = ax.figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise InputError(f"figure {str(path)!r}: the name must end in .{', .'.join(sorted(known))}")
    check_place(path)
    without = {"png": "Software", "svg": "Date", "pdf": "CreationDate"}.get(kind)
    metadata = None if without is None else {without: None}
    with matplotlib.rc_context({"svg.hashsalt": "corrmask"}):
        figure: Any = ax.get_figure(root=True)
        try:
            figure.savefig(path, dpi=150, metadata=metadata)
        except OSError as error:
            raise InputError(explain(error, path)) from error


def arm_colour(name: str) -> str:
    """The colour of an arm; black for what is none."""
    return ARM_COLOURS.get(name, "#000000")


def axes_of(ax: Axes | None, size: tuple[float, float] = (6, 4)) -> Axes:
    """`ax`, or the axes of a new figure that pyplot does not know."""
    if ax is None:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise InputError("plots need matplotlib: pip install 'corrmask[eval]'") from None
        ax = Figure(figsize=size, layout="constrained").add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    return ax

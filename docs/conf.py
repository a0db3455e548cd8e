"""How Sphinx builds the pages: `make docs`. Figures and the command page are made here, before the pages are read."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GENERATED = HERE / "generated"  # git ignores it
sys.path[:0] = [str(HERE / "scripts"), str(HERE.parent)]
# The kernel that executes the tutorial imports the same package.
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))

project = "corrmask"
author = "the corrmask authors"
copyright = "the corrmask authors, Apache-2.0"
release = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["version"]

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode", "numpydoc", "myst_nb"]
exclude_patterns = ["_build", "jupyter_execute", "scripts", "generated/scale.md"]  # the last is included in a page
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"corrmask {release}"
pygments_style = "tango"

default_role = "py:obj"  # `name` is a link where there is such a name, else code
rst_prolog = r"""
.. |r| replace:: \|r\|
.. |r - r64| replace:: \|r - r64\|
"""

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
numpydoc_show_class_members = False

myst_enable_extensions = ["attrs_block", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # a cache would know of the page alone, not of the package
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
suppress_warnings = ["mystnb.unknown_mime_type"]


def _make_pages(app: Any) -> None:
    import commands
    import method_figures
    import scale

    GENERATED.mkdir(exist_ok=True)
    commands.write(GENERATED / "commands.md")
    scale.write(GENERATED / "scale.md")
    method_figures.draw(GENERATED)


def _skip(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Fields of a NamedTuple, whose docstrings say their place alone: the class describes them."""
    return True if str(getattr(member, "__doc__", "")).startswith("Alias for field number") else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", _make_pages, priority=100)
    app.connect("autodoc-skip-member", _skip)

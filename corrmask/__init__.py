"""corrmask: joint masking of correlated genes for single-cell foundation models.

Importing it takes torch, numpy, scipy and anndata alone; names are loaded as they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corrmask import ops as ops
    from corrmask import pl as pl
    from corrmask import values as values
    from corrmask.config import show_config as show_config
    from corrmask.errors import InputError as InputError
    from corrmask.gene_graph import GeneGraph as GeneGraph
    from corrmask.graph import correlation_graph as correlation_graph
    from corrmask.groups import GroupTable as GroupTable
    from corrmask.masking import CorrMasker as CorrMasker
    from corrmask.vocabulary import Vocabulary as Vocabulary

_HOME = {
    "CorrMasker": "corrmask.masking",
    "GeneGraph": "corrmask.graph",
    "GroupTable": "corrmask.groups",
    "InputError": "corrmask.errors",
    "Vocabulary": "corrmask.vocabulary",
    "correlation_graph": "corrmask.graph",
    "show_config": "corrmask.config",
}
_MODULES = ("hf", "ops", "pl", "values")

__all__ = [*_HOME, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"corrmask.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("corrmask")
    raise AttributeError(f"module 'corrmask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

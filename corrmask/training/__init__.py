"""Pre-training: masked genes, an exact order of cells, and runs that can be killed and resumed."""

from corrmask.training.loop import pretrain
from corrmask.training.settings import Settings

__all__ = ["Settings", "pretrain"]

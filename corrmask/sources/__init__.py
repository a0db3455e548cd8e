"""Any file or object of cells -> (counts, obs) chunks in bounded memory, checked as they are read."""

from corrmask.sources.checks import check_counts
from corrmask.sources.opening import open_sources
from corrmask.sources.source import Chunk, Source, check_resumable
from corrmask.sources.stream import from_chunks

__all__ = ["Chunk", "Source", "check_counts", "check_resumable", "from_chunks", "open_sources"]

"""One self-contained HTML page of a run: what was done, what came out, what it does not show."""

from corrmask.report.page import Content, render_page

__all__ = ["Content", "render_page"]

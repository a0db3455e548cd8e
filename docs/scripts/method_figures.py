"""The figures of the page "The method", from simulated cells: python docs/scripts/method_figures.py FOLDER."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import corrmask
from corrmask import pl
from corrmask.arms import ARMS, make_masker
from corrmask.audit.counting import partner_strength, strongest_shown
from corrmask.corpus import Corpus
from corrmask.covariance import log_normalize
from corrmask.simulation import simulate
from corrmask.tokenization import tokenize

CELL, EPOCHS, LEAKS_FROM = 0, 3, 0.3
VISIBLE, HIDDEN, LEAKING = "#e4e4e4", pl.ARM_COLOURS["corr"], pl.ARM_COLOURS["rewired"]


def draw(folder: Path) -> None:
    """Draw ``shortcut.png`` and ``masks.png`` into a folder that exists. The same on every run."""
    cells = simulate(800, 300, n_types=4, n_rare=0, n_modules=12, module_size=12, seed=1)
    with tempfile.TemporaryDirectory() as temporary:
        tokenize(cells, Path(temporary) / "corpus")
        corpus = Corpus.open(Path(temporary) / "corpus")
        graph = corrmask.correlation_graph(cells)
        _draw_shortcut(cells, graph, folder / "shortcut.png")
        _draw_masks(cells, corpus, graph, folder / "masks.png")


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _draw_shortcut(cells: Any, graph: corrmask.GeneGraph, path: Path) -> None:
    """One gene against its strongest partner, and against a gene that is none."""
    y = cells.X.copy()
    y.data = log_normalize(y, 1e4)
    y = y.toarray()
    first = int(np.argmax(graph.weights))
    gene = int(np.searchsorted(graph.indptr, first, side="right")) - 1
    partners = graph.indices[graph.indptr[gene] : graph.indptr[gene + 1]]
    frequency = (y > 0).mean(axis=0)
    frequency[[gene, *partners]] = 0
    axes = _figure(7.5, 3.2).subplots(1, 2, sharey=True)
    for ax, other, kind in ((axes[0], partners[0], "strongest partner"), (axes[1], frequency.argmax(), "no partner")):
        r = np.corrcoef(y[:, gene], y[:, other])[0, 1]
        ax.plot(y[:, other], y[:, gene], ".", markersize=3, color=pl.ARM_COLOURS["corr"], alpha=0.6)
        ax.set_title(f"{kind}: r = {r:.2f}", fontsize=10)
        ax.set_xlabel(f"{graph.var_names[other]}, visible (log1p)")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"{graph.var_names[gene]}, masked (log1p)")
    pl.save(axes[0], path)


def _draw_masks(cells: Any, corpus: Corpus, graph: corrmask.GeneGraph, path: Path) -> None:
    """The same cell under each mask in three epochs: its genes side by side by module, coloured by what leaks."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    batch = corpus.batch(np.array([CELL]), 2048)
    tokens = batch.input_ids[0].numpy()
    genes = tokens - corpus.vocabulary.first_gene_token
    module = cells.var["module"].to_numpy()[cells.var_names.get_indexer(corpus.vocabulary.genes[genes])]
    order = np.lexsort((genes, np.where(module < 0, module.max() + 1, module)))
    partners = partner_strength(graph, corpus.vocabulary)
    axes = _figure(9, 4.4).subplots(len(ARMS), 1, sharex=True)
    for ax, arm in zip(axes, ARMS):
        masker = make_masker(arm, graph=graph, corpus=corpus, rows=np.arange(corpus.n_cells), max_len=2048)
        state = np.zeros((EPOCHS, len(tokens)))
        for epoch in range(EPOCHS):
            masked = masker.owners(*batch, epoch=epoch)[0].numpy() >= 0
            shown = np.zeros((1, corpus.vocabulary.n_genes), dtype=bool)
            shown[0, genes[~masked]] = True
            strength = strongest_shown(partners, np.zeros(masked.sum(), dtype=np.int64), genes[masked], shown)
            state[epoch, masked] = 1 + (strength >= LEAKS_FROM)
        ax.pcolormesh(
            state[:, order], cmap=ListedColormap([VISIBLE, HIDDEN, LEAKING]), vmin=0, vmax=2, edgecolors="white", lw=0.4
        )
        ax.set_yticks([])
        ax.set_ylabel(arm, rotation=0, ha="right", va="center")
        ax.spines[:].set_visible(False)
        ends = np.flatnonzero(np.diff(module[order])) + 1
        ax.vlines(ends, 0, EPOCHS, color="black", linewidth=0.7)
    sizes = np.diff([0, *ends, len(tokens)])
    middle = np.cumsum(sizes) - sizes / 2
    axes[-1].set_xticks([*middle[:-1], middle[-1]], [*(f"{i + 1}" for i in range(len(ends))), "genes in no module"])
    axes[-1].set_xlabel(f"the {len(tokens)} genes of one cell, by module of the simulation; a row is an epoch")
    handles = [
        Patch(color=HIDDEN, label="masked"),
        Patch(color=LEAKING, label=f"masked, a partner with |r| ≥ {LEAKS_FROM} is visible"),
        Patch(color=VISIBLE, label="visible"),
    ]
    axes[0].figure.legend(handles=handles, frameon=False, ncols=3, loc="outside upper center")
    pl.save(axes[0], path)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))

"""Embeddings of cells and genes: equal to slow references, in order, and refused with one line."""

from __future__ import annotations

import json
import shutil

import anndata
import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("datasets")
pytest.importorskip("tensorboard")

import tiny_models as tiny

from corrmask.cli.app import main
from corrmask.corpus import Corpus
from corrmask.embedding import embed
from corrmask.errors import InputError, InputWarning
from corrmask.gene_graph import GeneGraph
from corrmask.model import load_model
from corrmask.tokenization import tokenize
from corrmask.training import pretrain
from corrmask.vocabulary import Vocabulary

EMPTY = (5, 64)
# float32 sums over at most 32 tokens of layer-normalised states, in another order: 1e-6 of their size, some times over
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Cells (in a file), corpus and model."""
    folder = tmp_path_factory.mktemp("work")
    adata = tiny.cells(empty=EMPTY)
    adata.write_h5ad(folder / "cells.h5ad")
    corpus, graph = tiny.write_inputs(folder, adata)
    # max_len below the longest cell: embeddings see the first tokens alone
    pretrain(corpus, folder / "m", tiny.settings(layers=2, max_len=16, steps=4), graph=graph)
    return folder


def slow(work, layer, max_len=16):
    """Hidden states of each cell by itself, without padding: [(tokens, states)]."""
    model, _ = load_model(work / "m")
    corpus = Corpus.open(work / "corpus")
    found = []
    for row in range(corpus.n_cells):
        tokens = corpus.batch(np.array([row]), max_len).input_ids
        if tokens.shape[1] == 0:
            found.append((np.zeros(0, int), np.zeros((0, 32))))
            continue
        with torch.no_grad():
            states = model.bert(input_ids=tokens, output_hidden_states=True).hidden_states[layer]
        found.append((tokens[0].numpy(), states[0].double().numpy()))
    return found


@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_cells_and_genes_equal_the_slow_reference(work, layer):
    result = embed(work / "m", corpus=work / "corpus", layer=layer, batch_size=7)
    found = slow(work, layer)
    expected = np.stack([states.mean(0) if len(states) else np.zeros(32) for _, states in found])
    np.testing.assert_allclose(result.cells.obsm["X_corrmask"], expected, **CLOSE)
    np.testing.assert_array_equal(result.cells.obs["corrmask_n_tokens"], [len(tokens) for tokens, _ in found])
    vocabulary = Corpus.open(work / "corpus").vocabulary
    counted = (anndata.read_h5ad(work / "cells.h5ad").to_df() > 0).mean()
    seen = []
    for i, gene in enumerate(vocabulary.genes):
        rows = [states[tokens == i + vocabulary.first_gene_token] for tokens, states in found]
        rows = np.concatenate(rows)
        if len(rows) == 0:
            continue
        seen.append(gene)
        np.testing.assert_allclose(result.genes[gene].X[0], rows.mean(0), **CLOSE)
        assert result.genes.obs.loc[gene, "n_cells"] == len(rows)
        assert len(rows) / 120 <= result.genes.obs.loc[gene, "detection"] == counted[gene]
    assert list(result.genes.obs_names) == seen
    assert (result.genes.obs["detection"] > result.genes.obs["n_cells"] / 120).any(), "of whole cells, not of 16 tokens"
    assert result.genes.X.dtype == result.cells.obsm["X_corrmask"].dtype == np.float32


def test_empty_cells_are_zeros(work):
    cells = embed(work / "m", corpus=work / "corpus").cells
    for row in range(120):
        assert (cells.obs["corrmask_n_tokens"].iloc[row] == 0) == (row in EMPTY)
        assert np.all(cells.obsm["X_corrmask"][row] == 0) == (row in EMPTY)


def test_order_names_and_obs_are_kept(work):
    cells = embed(work / "m", corpus=work / "corpus").cells
    assert list(cells.obs_names) == [f"cell{i}" for i in range(120)]
    assert list(cells.obs["kind"]) == [str(i % 2) for i in range(120)]
    assert cells.n_vars == 0


def test_a_graph_that_lies_with_the_cells_stays(work):
    graph = GeneGraph.read(work / "graph.h5ad")
    cells = graph.to_anndata(anndata.read_h5ad(work / "cells.h5ad"))
    found = embed(work / "m", data=cells).cells
    again = GeneGraph.from_anndata(found)
    assert again.provenance == graph.provenance
    assert found.uns["corrmask_embedding"]["layer"] == -1


@pytest.mark.parametrize("batch_size", [1, 13, 500])
def test_batch_size_changes_nothing_beyond_rounding(work, batch_size):
    one = embed(work / "m", corpus=work / "corpus")
    other = embed(work / "m", corpus=work / "corpus", batch_size=batch_size)
    np.testing.assert_allclose(one.cells.obsm["X_corrmask"], other.cells.obsm["X_corrmask"], **CLOSE)
    np.testing.assert_allclose(one.genes.X, other.genes.X, **CLOSE)


def test_it_is_told_that_a_corpus_has_other_medians(work, tmp_path):
    vocabulary = Corpus.open(work / "corpus").vocabulary
    others = Vocabulary(vocabulary.genes, medians=vocabulary.medians * np.linspace(1, 2, vocabulary.n_genes))
    tokenize(work / "cells.h5ad", tmp_path / "corpus", vocabulary=others)
    with pytest.warns(InputWarning, match="was ranked by other medians than the model's corpus"):
        embed(work / "m", corpus=tmp_path / "corpus")


def test_counts_give_what_their_corpus_gives(work):
    from_corpus, from_data = embed(work / "m", corpus=work / "corpus"), embed(work / "m", data=work / "cells.h5ad")
    np.testing.assert_allclose(from_corpus.cells.obsm["X_corrmask"], from_data.cells.obsm["X_corrmask"], **CLOSE)
    np.testing.assert_allclose(from_corpus.genes.X, from_data.genes.X, **CLOSE)
    adata = anndata.read_h5ad(work / "cells.h5ad")
    assert (from_data.cells.X != adata.X).nnz == 0
    assert list(from_data.cells.var_names) == list(adata.var_names)
    assert list(from_data.cells.obs.columns) == ["kind", "corrmask_n_tokens"]
    counts = adata.X.toarray().astype(np.float64)
    totals = counts.sum(1, keepdims=True)
    expected = np.log1p(counts * 1e4 / np.where(totals == 0, 1, totals)).mean(0)
    position = adata.var_names.get_indexer(from_data.genes.obs_names)
    np.testing.assert_allclose(from_data.genes.obs["mean_expression"], expected[position], rtol=1e-12)
    assert "mean_expression" not in from_corpus.genes.obs
    np.testing.assert_array_equal(from_data.genes.obs["detection"], (counts > 0).mean(0)[position])
    np.testing.assert_array_equal(from_data.genes.obs["detection"], from_corpus.genes.obs["detection"])
    in_memory = embed(work / "m", data=adata)
    np.testing.assert_array_equal(in_memory.cells.obsm["X_corrmask"], from_data.cells.obsm["X_corrmask"])
    assert "X_corrmask" not in adata.obsm


def test_static_embeddings_are_the_rows_of_the_input_table(work):
    genes = embed(work / "m", corpus=work / "corpus").genes
    model, vocabulary = load_model(work / "m")
    table = model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(genes.obsm["X_static"], table[vocabulary.tokens_of(genes.obs_names)])


def test_a_checkpoint_is_embedded_like_a_model(work):
    newest = work / "m" / "checkpoints" / "step-000004"
    one, other = (embed(model, corpus=work / "corpus") for model in (work / "m", newest))
    np.testing.assert_array_equal(one.cells.obsm["X_corrmask"], other.cells.obsm["X_corrmask"])


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(["embed", *map(str, arguments)])
    return caught.value.code


def test_the_command(work, tmp_path, capsys):
    arguments = [work / "m", "--data", work / "cells.h5ad", "-o", tmp_path / "c.h5ad", "--genes", tmp_path / "g.h5ad"]
    assert run(*arguments, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["cells"], summary["cells_without_tokens"], summary["dimensions"]) == (120, 2, 32)
    cells, genes = anndata.read_h5ad(tmp_path / "c.h5ad"), anndata.read_h5ad(tmp_path / "g.h5ad")
    assert cells.obsm["X_corrmask"].shape == (120, 32)
    assert genes.shape == (summary["genes_seen"], 32)
    assert cells.uns["corrmask_embedding"]["layer"] == -1
    assert run(*arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert run(*arguments, "--overwrite") == 0
    assert "2 cells have no token" in capsys.readouterr().err
    assert run(work / "m", "--corpus", work / "corpus", "-o", tmp_path / "k.h5ad") == 0
    assert anndata.read_h5ad(tmp_path / "k.h5ad").shape == (120, 0)


def test_bad_input_gets_one_line(work, tmp_path, capsys):
    out = ["-o", tmp_path / "c.h5ad"]
    other = tiny.cells()
    other.var_names = [f"other{i}" for i in range(tiny.N_GENES)]
    other.write_h5ad(tmp_path / "other.h5ad")
    other_corpus, _ = tiny.write_inputs(tmp_path, other)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(work / "m", unfinished)
    (unfinished / "config.json").unlink()
    data, corpus, model = ["--data", work / "cells.h5ad"], ["--corpus", work / "corpus"], work / "m"
    for arguments, message in [
        ([model, *out], "by --corpus or by --data"),
        ([model, *out, *data, *corpus], "by --corpus or by --data"),
        ([tmp_path / "none", *out, *data], "does not exist"),
        ([unfinished, *out, *data], "has not finished training"),
        ([model, *out, *data, "--layer", "3"], "'layer' must be in -3 .. 2"),
        ([model, *out, *data, "--max-len", "17"], "'max_len' must be in 1 .. 16"),
        ([model, *out, *data, "--pooling", "cls"], "'pooling' must be 'mean'"),
        ([model, *out, *data, "--batch-size", "0"], "'batch_size' must be at least 1"),
        ([model, *out, *data, "--device", "nonsense"], "is not available"),
        ([model, "-o", tmp_path / "c.csv", *data], "must end in .h5ad"),
        ([model, *out, *data, "--genes", tmp_path / "c.h5ad"], "would be written to one file"),
        ([model, *out, "--data", tmp_path / "other.h5ad"], "none of its 60 genes"),
        ([model, *out, "--data", tmp_path / "none.h5ad"], "no such file"),
        ([model, *out, "--corpus", other_corpus], "has another vocabulary"),
        ([model, *out, "--corpus", tmp_path / "none"], "does not exist"),
    ]:
        assert run(*arguments) == 2, arguments
        error = capsys.readouterr().err
        assert message in error, error
        assert error.count("\n") == 1, error
    assert not (tmp_path / "c.h5ad").exists()


def test_several_files_are_refused(work, tmp_path):
    shutil.copy(work / "cells.h5ad", tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match="2 files given"):
        embed(work / "m", data=[work / "cells.h5ad", tmp_path / "cells.h5ad"])

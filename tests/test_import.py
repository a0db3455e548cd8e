"""What an import brings along: the core takes torch, numpy, scipy and anndata alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

EXTRAS = {
    *("cupy", "datasets", "igraph", "jinja2", "matplotlib", "pyarrow", "rich", "safetensors", "sklearn"),
    *("tensorboard", "transformers", "typer", "umap"),
}
PROGRAM = """
import sys
import torch
before = set(sys.modules)
{statement}
print("\\n".join(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})))
"""


def brought_by(statement: str) -> set[str]:
    """Top-level modules that a statement imports beyond torch, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:corrmask", "-c", PROGRAM.format(statement=statement)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import corrmask", "import corrmask.ops; corrmask.ops.sample_groups"])
def test_an_import_is_light(statement: str) -> None:
    brought = brought_by(statement)
    assert "corrmask" in brought
    assert not brought & {*EXTRAS, "anndata", "pandas", "h5py", "scipy", "zarr"}, "anndata waits for its first use"


def test_the_core_needs_no_extra() -> None:
    brought = brought_by(
        "import corrmask as c; c.CorrMasker, c.GeneGraph, c.GroupTable, c.InputError, c.Vocabulary, "
        "c.correlation_graph, c.show_config()"
    )
    assert not brought & (EXTRAS - {"pyarrow"}), "pandas takes pyarrow where it is there"


def test_names_that_are_there_and_names_that_are_not() -> None:
    import corrmask

    for name in corrmask.__all__:
        assert getattr(corrmask, name) is not None
    assert set(dir(corrmask)) >= {"CorrMasker", "ops", "correlation_graph"}
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = corrmask.nothing

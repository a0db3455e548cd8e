"""Training from a corpus on disk, as gpu_gate.py reports it: pace, share of the peak, share of time that it waits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from gpu_timing import Rates, Scale

from corrmask import correlation_graph
from corrmask.simulation import simulate
from corrmask.tokenization import tokenize
from corrmask.training import Settings, pretrain
from corrmask.training.log import read_metrics, share_of_time

_SKIPPED = 10  # updates in which the readers catch up and kernels are compiled


def pretraining(scale: Scale, _: Rates) -> Iterator[str]:
    """`corrmask.training.pretrain` with joint masks, as it is and with --compile."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells = simulate(scale.trained_cells, scale.n_genes, n_modules=min(40, scale.n_genes // 50), seed=0)
        graph = correlation_graph(cells)
        tokenize(cells, folder / "corpus")
        yield from ("", "## Training", "")
        yield (
            f"Geneformer's shape of 10 M parameters ({scale.layers} layers), from a corpus on disk, masks of `corr`; "
            f"cells of an update, each of up to {scale.width:,} genes ({cells.X.nnz / cells.n_obs:,.0f} found on "
            f"average); the first {_SKIPPED} updates left out. Waited: share of the time, for cells and masks together."
        )
        yield ""
        yield "| cells | what | real tokens/s | of the peak | waited | loss |"
        yield "|---|---|---|---|---|---|"
        kinds = (False,) if scale.device == "cpu" else (False, True)  # compiling takes half a minute
        for compiled, batch_size in product(kinds, scale.trained_batches):
            settings = Settings(
                mask="corr",
                steps=_SKIPPED + scale.trained_steps,
                batch_size=batch_size,
                layers=scale.layers,
                max_len=scale.width,
                validate_cells=batch_size,
                device=scale.device,
                compile=compiled,
            )
            model = folder / f"{batch_size}-{compiled}"
            pretrain(folder / "corpus", model, settings, graph=graph)
            lines = [one for one in read_metrics(model) if one["kind"] == "train" and one["step"] > _SKIPPED]
            pace, waited, of_peak = (share_of_time(lines, what) for what in ("tokens_per_second", "wait_share", "mfu"))
            assert pace is not None
            assert waited is not None
            if not compiled and batch_size == max(scale.trained_batches):
                scale.reached["waiting for cells and masks, % of training"] = 100 * waited
            what = f"**corrmask**{', --compile' if compiled else ''}"
            share = "" if of_peak is None else f"{of_peak:.1%}"
            yield f"| {batch_size:,} | {what} | {pace:,.0f} | {share} | {waited:.2%} | {lines[-1]['loss']:.3f} |"

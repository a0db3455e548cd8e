"""`corrmask pretrain`: a BERT for masked genes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from corrmask.cli import console


def pretrain(
    corpus: Annotated[Path, typer.Option(help="Tokenised cells, written by `corrmask tokenize`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model folder to write.")],
    mask: Annotated[str, typer.Option(help="random, weighted, corr, levelled, module or rewired.")],
    graph: Annotated[
        Path | None, typer.Option(help="Dependency graph, written by `corrmask graph`; all masks but random need it.")
    ] = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Token dictionary (.pkl, .json) of a corpus without vocabulary.json.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Number of updates, in place of --epochs.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training cells. \\[default: 3]", show_default=False)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Cells of an update.")] = 32,
    lr: Annotated[float, typer.Option(help="Largest learning rate.")] = 5e-4,
    warmup: Annotated[
        int | None,
        typer.Option(
            help="Updates of linear warm-up; linear decay follows. \\[default: a tenth of all]", show_default=False
        ),
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW; none on biases and LayerNorm.")] = 0.01,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient; 0 does not clip.")] = 1.0,
    layers: Annotated[int, typer.Option(help="Layers of the encoder.")] = 6,
    hidden: Annotated[int, typer.Option(help="Dimensions of a token.")] = 256,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 4,
    intermediate: Annotated[int, typer.Option(help="Dimensions of the feed-forward layer.")] = 512,
    max_len: Annotated[int, typer.Option(help="Most tokens of a cell.")] = 2048,
    dropout: Annotated[float, typer.Option(help="Of hidden states.")] = 0.02,
    attention_dropout: Annotated[
        float, typer.Option(help="Of attention; above 0 training is several times as slow.")
    ] = 0.0,
    rate: Annotated[float, typer.Option(help="Share of a cell's genes that is masked.")] = 0.15,
    expand: Annotated[float, typer.Option(help="Share of seed genes that bring their group.")] = 1.0,
    expand_from: Annotated[
        float | None, typer.Option(help="Let --expand rise linearly from here (0: from random masking).")
    ] = None,
    expand_steps: Annotated[
        int | None, typer.Option(help="Updates of that rise. \\[default: all]", show_default=False)
    ] = None,
    max_group: Annotated[int | None, typer.Option(help="Most genes that a seed brings along.")] = None,
    frequency_power: Annotated[
        float | None,
        typer.Option(
            help="Of weighted and levelled: mask genes as often as corr does, to this power. \\[default: 1 and 0]",
            show_default=False,
        ),
    ] = None,
    balance: Annotated[
        str | None, typer.Option(help="Train on each label of this obs column equally often.", show_default=False)
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of the cells held out for validation.")] = 0.05,
    validate_every: Annotated[
        int | None, typer.Option(help="Updates between validations. \\[default: a tenth of all]", show_default=False)
    ] = None,
    validate_cells: Annotated[int, typer.Option(help="Most held-out cells to validate on; 0 for all.")] = 4096,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(help="Updates between checkpoints. \\[default: a tenth of all, at most 1000]", show_default=False),
    ] = None,
    keep: Annotated[int, typer.Option(help="Checkpoints that stay.")] = 2,
    seed: Annotated[int, typer.Option(help="Of split, weights, order, masks and dropout.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16; auto is bf16 where CUDA has it.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(help="Threads on the CPU; they change rounding. \\[default: torch's]", show_default=False),
    ] = None,
    peak: Annotated[
        float | None,
        typer.Option(
            help="TFLOP/s of a device, of which the share used is logged. \\[default: as published, where known]",
            show_default=False,
        ),
    ] = None,
    shard: Annotated[
        bool, typer.Option("--shard", help="Spread weights and moments over torchrun's processes (FSDP2).")
    ] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Fuse pointwise work with torch.compile.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what training.json holds.")] = False,
) -> None:
    """Pre-train a BERT on masked genes; the folder opens with transformers' BertForMaskedLM.

    Validation is on randomly masked held-out cells, the same for every mask. A run that was killed goes on with
    --resume and ends with the same bytes of weights.

    Example: [bold]corrmask pretrain --corpus corpus --graph graph.h5ad --mask corr -o model --epochs 3[/bold]

    From random to correlated masks: [bold]corrmask pretrain --corpus corpus --graph graph.h5ad --mask corr
    --expand-from 0 -o model[/bold]

    On several GPUs: [bold]torchrun --nproc-per-node 8 --max-restarts 3 --no-python corrmask pretrain --corpus corpus
    --graph graph.h5ad --mask corr -o model --batch-size 256 --resume[/bold]
    """
    from corrmask.files import check_apart
    from corrmask.geneformer import read_vocabulary
    from corrmask.training import Settings
    from corrmask.training import pretrain as train

    settings = Settings(
        mask=mask,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        warmup=warmup,
        weight_decay=weight_decay,
        clip=clip,
        layers=layers,
        hidden=hidden,
        heads=heads,
        intermediate=intermediate,
        max_len=max_len,
        dropout=dropout,
        attention_dropout=attention_dropout,
        rate=rate,
        expand=expand,
        expand_from=expand_from,
        expand_steps=expand_steps,
        max_group=max_group,
        frequency_power=frequency_power,
        balance=balance,
        held_out=held_out,
        validate_every=validate_every,
        validate_cells=validate_cells,
        checkpoint_every=checkpoint_every,
        keep=keep,
        seed=seed,
        device=device,
        precision=precision,  # type: ignore[arg-type]  # checked there
        threads=threads,
        peak=peak,
        shard=shard,
        compile=compile,
    )
    settings.check()
    if overwrite:
        check_apart(output.resolve(), [vocabulary])
    given = None if vocabulary is None else read_vocabulary(vocabulary)
    try:
        with console.progress() as progress:
            record = train(
                corpus,
                output,
                settings,
                graph=graph,
                vocabulary=given,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
            )
    except (KeyboardInterrupt, SystemExit):
        console.note(f"{output} is not finished: give the same command with --resume to go on from its last checkpoint")
        raise
    if json:
        console.print_json({"output": str(output), **record})
    else:
        _print(output, record)


def _print(output: Path, record: dict[str, Any]) -> None:
    settings, cells, validation = record["settings"], record["cells"], record["validation"]
    lines = [
        f"{output}: {settings['mask']} masks, {settings['steps']:,} steps of {settings['batch_size']} cells, "
        f"{record['parameters']:,} parameters, {settings['precision']} on {settings['device']}",
        f"{cells['train']:,} cells to train on, {cells['held_out']:,} held out",
    ]
    if validation is not None:
        lines.append(
            f"held-out cells, masked at random: loss {validation['loss']:.4f}, accuracy {validation['accuracy']:.2%}"
        )
    if settings["balance"] is not None:
        lines.append(f"each label of {settings['balance']!r} equally often")
    if record["mfu"] is not None:
        lines.append(f"model FLOP utilisation {record['mfu']:.1%} of {settings['peak']:,.4g} TFLOP/s a device")
    lines.append(f"waited for masked cells {record['waited']:.2%} of the training time")
    console.out.print("\n".join(lines), markup=False)
    if cells["without_tokens"]:
        console.note(f"left out: {cells['without_tokens']:,} cells without tokens")
    if cells["without_label"]:
        console.note(f"left out: {cells['without_label']:,} training cells without a label in {settings['balance']!r}")
    if cells["cut_to_max_len"]:
        console.note(f"cut to {settings['max_len']} tokens: {cells['cut_to_max_len']:,} cells")

"""The model: transformers' BERT for masked genes, as a folder that `BertForMaskedLM.from_pretrained` opens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corrmask.errors import InputError
from corrmask.vocabulary import FILE_NAME, Vocabulary

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
RECORD_FILE = "training.json"


def build_model(
    vocabulary: Vocabulary,
    *,
    layers: int,
    hidden: int,
    heads: int,
    intermediate: int,
    max_len: int,
    dropout: float,
    attention_dropout: float = 0.0,
    seed: int,
) -> Any:
    """A new `transformers.BertForMaskedLM`, its weights a pure function of the arguments.

    Parameters
    ----------
    vocabulary
        Gives the number of tokens and the pad token.
    layers, hidden, heads, intermediate
        Shape of the encoder; `heads` divides `hidden`.
    max_len
        Most tokens of a cell: the number of positions.
    dropout, attention_dropout
        Of hidden states, and of attention.
    seed
        Of the initial weights; the global generator is left as it was.

    Returns
    -------
    transformers.BertForMaskedLM
        float32, on the CPU.
    """
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=vocabulary.size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=max_len,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=attention_dropout,
        type_vocab_size=1,
        pad_token_id=vocabulary.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return BertForMaskedLM(config)


def save_model(model: Any, vocabulary: Vocabulary, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``vocabulary.json`` into a folder that exists.

    `weights` by name stand in for the model's own, where it holds but a part of them.
    """
    with _quiet():
        model.save_pretrained(folder, state_dict=weights, max_shard_size="1000GB")
    vocabulary.save(folder / FILE_NAME)


def load_weights(model: Any, folder: Path) -> None:
    """Copy saved weights into a model of the same shape."""
    from transformers import BertForMaskedLM

    with _quiet():
        saved = BertForMaskedLM.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
    # Copied, not adopted: what is loaded lies in the mapped file at any alignment, on which rounding may depend.
    model.load_state_dict(saved.state_dict())


def load_model(path: str | Path, vocabulary: Vocabulary | None = None) -> tuple[Any, Vocabulary]:
    """Open a finished model, or one of its checkpoints.

    Parameters
    ----------
    path
        Folder with ``config.json`` and ``model.safetensors``.
    vocabulary
        For a folder without ``vocabulary.json``.

    Returns
    -------
    model : transformers.BertForMaskedLM
        float32, on the CPU, in evaluation mode.
    vocabulary : Vocabulary

    Raises
    ------
    InputError
        There is no such folder, its training has not finished, it is damaged, or the vocabulary does not fit.
    """
    from transformers import BertForMaskedLM

    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"model {str(path)!r} does not exist; train one with `corrmask pretrain ... -o {path}`")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if (folder / name).exists():
            continue
        if (folder / RECORD_FILE).exists():
            raise InputError(
                f"model {str(path)!r} has not finished training; go on with `corrmask pretrain ... --resume`, or give "
                f"a folder in {str(folder / 'checkpoints')!r}"
            )
        raise InputError(f"model {str(path)!r} has no {name}; give a folder that `corrmask pretrain` wrote")
    if vocabulary is None:
        vocabulary = Vocabulary.load(folder)
    try:
        kind = json.loads((folder / CONFIG_FILE).read_text()).get("model_type")
        if kind != "bert":
            raise InputError(f"model {str(path)!r} is of type {kind!r}; give a BERT for masked tokens")
        with _quiet():
            model = BertForMaskedLM.from_pretrained(folder, use_safetensors=True, local_files_only=True).float()
    except InputError:
        raise
    except Exception as error:  # safetensors and transformers raise many kinds for a damaged folder
        raise InputError(f"model {str(path)!r} cannot be read ({' '.join(str(error).split())[:200]})") from error
    if model.config.vocab_size != vocabulary.size:
        raise InputError(
            f"model {str(path)!r} has {model.config.vocab_size:,} tokens, the vocabulary {vocabulary.size:,}; give the "
            "vocabulary that it was trained with"
        )
    return model.eval(), vocabulary


def attention_mask(lengths: Tensor, width: int) -> Tensor:
    """int64 [B, width]: 1 below each cell's length (int64 [B]), 0 at the padding behind it."""
    return (torch.arange(width, device=lengths.device)[None, :] < lengths[:, None]).to(torch.int64)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and reports that transformers prints while it reads or writes a model."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

"""The model as a folder: round trips, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from transformers import BertForMaskedLM

from corrmask.devices import choose_device
from corrmask.errors import InputError
from corrmask.model import attention_mask, build_model, load_model, load_weights, save_model
from corrmask.vocabulary import Vocabulary

SHAPE = {"layers": 1, "hidden": 32, "heads": 2, "intermediate": 64, "max_len": 16, "dropout": 0.1}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(np.array([f"g{i}" for i in range(50)], dtype=object))


@pytest.fixture
def folder(tmp_path, vocabulary):
    save_model(build_model(vocabulary, **SHAPE, seed=0), vocabulary, tmp_path)
    return tmp_path


def test_weights_are_a_function_of_the_seed_and_leave_the_generator_alone(vocabulary):
    before = torch.get_rng_state()
    first, again, other = (build_model(vocabulary, **SHAPE, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    table = "bert.embeddings.word_embeddings.weight"
    assert first[table].shape == (vocabulary.size, 32)
    assert not torch.equal(first[table], other[table])


def test_transformers_opens_the_folder_with_the_same_weights(folder, vocabulary):
    model = build_model(vocabulary, **SHAPE, seed=0)
    opened, loaded = BertForMaskedLM.from_pretrained(folder), load_model(folder)[0]
    other = build_model(vocabulary, **SHAPE, seed=1)
    load_weights(other, folder)
    for name, weights in model.state_dict().items():
        for one in (opened, loaded, other):
            assert torch.equal(one.state_dict()[name], weights), name
    assert opened.config.pad_token_id == vocabulary.pad_token_id
    assert not loaded.training
    assert load_model(folder)[1].hash == vocabulary.hash


def test_loaded_weights_are_aligned_as_new_ones(folder, vocabulary):
    """Rounding may depend on alignment, and a resumed run must round as one never killed."""
    model = build_model(vocabulary, **SHAPE, seed=1)
    before = [parameter.data_ptr() for parameter in model.parameters()]
    load_weights(model, folder)
    assert [parameter.data_ptr() for parameter in model.parameters()] == before


def test_attention_mask():
    mask = attention_mask(torch.tensor([2, 0, 3]), 3)
    assert mask.tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert mask.dtype == torch.int64


def test_unfit_folders_are_refused_with_one_line(folder, tmp_path_factory, vocabulary):
    with pytest.raises(InputError, match="does not exist"):
        load_model(folder / "none")
    with pytest.raises(InputError, match=r"no config.json"):
        load_model(tmp_path_factory.mktemp("empty"))
    with pytest.raises(InputError, match=r"has 54 tokens, the vocabulary 9"):
        load_model(folder, Vocabulary(np.array(list("abcde"), dtype=object)))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    (folder / "model.safetensors").unlink()
    (folder / "training.json").write_text("{}")
    with pytest.raises(InputError, match="has not finished"):
        load_model(folder)


def test_another_type_of_model_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(InputError, match="'gpt2'"):
        load_model(folder)


def test_pickled_weights_are_never_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no model.safetensors"):
        load_model(folder)


def test_choose_device():
    assert choose_device("cpu").type == "cpu"
    for name in ("nonsense", "cuda:99"):
        with pytest.raises(InputError, match="not available"):
            choose_device(name)

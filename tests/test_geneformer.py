"""Geneformer's dictionaries load; a pickle can do nothing else."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corrmask import geneformer
from corrmask.errors import InputError
from corrmask.geneformer import read_dictionary, read_vocabulary


def write(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])  # older ones need a function to write bytes
def test_names_and_numbers_are_read(tmp_path: Path, protocol: int) -> None:
    value = {
        "A": 1,
        "B": 2.5,
        "C": np.float64(0.1),
        "D": np.float32(0.5),
        "E": np.int64(7),
        "F": np.dtype(">f8").type(3),
        "G": np.bool_(True),
        "H": 2**70,
    }
    got = read_dictionary(write(tmp_path / "d.pkl", value, protocol))
    assert got == {name: number.item() if isinstance(number, np.generic) else number for name, number in value.items()}
    assert all(type(number) in (int, float, bool) for number in got.values())


def test_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"A": 1, "B": 0.5}))
    assert read_dictionary(path) == {"A": 1, "B": 0.5}


class Hostile:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def hostile_pickles(marker: Path) -> dict[str, Any]:
    command = f"touch {marker}"
    return {
        "os.system": Hostile(os.system, command),
        "in a dictionary": {"A": Hostile(os.system, command)},
        "as a key": {Hostile(os.system, command): 1},
        "eval": Hostile(eval, f"open({str(marker)!r}, 'w')"),
        "getattr": Hostile(getattr, "text", "upper"),
        "open": Hostile(open, str(marker), "w"),
        "protocol 0": f"cos\nsystem\n(S'{command}'\ntR.".encode(),
        "instance": f"(S'{command}'\nios\nsystem\n.".encode(),
        "numpy's load": Hostile(np.load, str(marker)),
        "numpy's fromfile": Hostile(np.fromfile, str(marker)),
        "numpy's test runner": b"cnumpy.testing._private.utils\nruncstring\n(S'x'\ntR.",
        "an attribute of scalar": b"\x80\x04\x8c\x16numpy._core.multiarray\x8c\x0fscalar.__class__\x93.",
        "an object array": {"A": np.array([{}], dtype=object)},
        "an array": {"A": np.ones(3)},
        "a class of ours": {"A": Hostile(Path, "x")},
        "object dtype of a scalar": (
            b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87RX\x08\x00\x00\x00"
            b"aaaaaaaa\x86R."
        ),
        "structured dtype": b"\x80\x02cnumpy\ndtype\nX\x05\x00\x00\x00f8,O8K\x00K\x01\x87R.",
        "dtype turned by its state": (
            b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00f8K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00"
            b"OX\x01\x00\x00\x00ONNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x86R."
        ),
        "scalar without a dtype": b"\x80\x02cnumpy.core.multiarray\nscalar\nX\x02\x00\x00\x00f8X\x00\x00\x00\x00\x86R.",
        "too few bytes": (
            b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00f8K\x00K\x01\x87RC\x01a\x86R."
        ),
        "a persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "the extension registry": b"\x80\x02\x82\x01.",
        "damaged": pickle.dumps({"A": 1})[:-3],
        "no pickle": b"genes",
        "empty": b"",
    }


@pytest.mark.parametrize("kind", hostile_pickles(Path("x")))
def test_anything_else_is_refused(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "ran"
    path = write(tmp_path / "d.pkl", hostile_pickles(marker)[kind])
    with pytest.raises(InputError, match=r"names and numbers|names to numbers") as caught:
        read_dictionary(path)
    assert not marker.exists()
    assert "\n" not in str(caught.value)


def test_a_pickle_leaves_no_trace_in_the_reader(tmp_path: Path) -> None:
    """BUILD sets attributes of what it is given: of ours it may not."""
    text = b"X\x01\x00\x00\x00a"
    for target in (b"cnumpy.core.multiarray\nscalar\n", b"cnumpy\ndtype\n"):
        for state in (b"}" + text + text + b"s", b"N}" + text + text + b"s\x86"):
            path = write(tmp_path / "d.pkl", b"\x80\x02" + target + state + b"b.")
            with pytest.raises(InputError):
                read_dictionary(path)
    for value in vars(geneformer).values():
        assert not hasattr(value, "a")
    assert read_dictionary(write(tmp_path / "d.pkl", {"A": np.float64(2)})) == {"A": 2}


@pytest.mark.parametrize(
    "value", [["A", 1], 5, "A", {"A": "B"}, {1: 2}, {"A": None}, {"A": [1]}, {"A": {"B": 1}}, {"A": 1j}, None]
)
def test_other_contents_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match=r"names to numbers|names and numbers"):
        read_dictionary(write(tmp_path / "d.pkl", value))
    if not isinstance(value, dict) or 1 not in value:
        path = tmp_path / "d.json"
        path.write_text(json.dumps(value) if value != {"A": 1j} else "{")
        with pytest.raises(InputError, match=r"names to numbers|names and numbers"):
            read_dictionary(path)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_dictionary(tmp_path / "none.pkl")
    with pytest.raises(InputError, match="folder"):
        read_dictionary(tmp_path)


def test_a_vocabulary_of_dictionaries(tmp_path: Path) -> None:
    tokens = write(tmp_path / "tokens.pkl", {"<pad>": 0, "<mask>": 1, "ENSG1": 2, "ENSG2": 3})
    medians = write(tmp_path / "medians.pkl", {"ENSG2": np.float64(0.25)})
    vocabulary = read_vocabulary(tokens, medians)
    np.testing.assert_array_equal(vocabulary.medians, [np.nan, 0.25])
    assert vocabulary.medians_origin == {"kind": "table", "source": "medians.pkl"}
    assert read_vocabulary(tokens).medians is None
    with pytest.raises(InputError):
        read_vocabulary(medians, tokens)


def test_geneformers_own_dictionaries(data_dir: Path) -> None:
    folder = data_dir / "geneformer"
    vocabulary = read_vocabulary(folder / "token_dictionary.pkl", folder / "gene_median_dictionary.pkl")
    assert vocabulary.size == 25_426
    assert (vocabulary.pad_token_id, vocabulary.mask_token_id) == (0, 1)
    assert vocabulary.medians is not None
    assert (vocabulary.medians > 0).all()
    # the same as the unpickler of the standard library, which may be used on these
    with (folder / "token_dictionary.pkl").open("rb") as file:
        tokens = pickle.load(file)
    assert read_dictionary(folder / "token_dictionary.pkl") == tokens
    genes = [name for name in tokens if not name.startswith("<")]
    assert vocabulary.tokens_of(genes).tolist() == [tokens[gene] for gene in genes]

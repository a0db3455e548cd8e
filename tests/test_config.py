"""What `show_config` tells."""

from __future__ import annotations

import json
from importlib.metadata import version

import torch

import corrmask


def test_it_tells_how_this_was_built() -> None:
    config = corrmask.show_config()
    assert config["corrmask"] == version("corrmask") == corrmask.__version__
    assert config["torch"] == version("torch")
    assert config["threads"] == torch.get_num_threads()
    for name in ("torch_built_against", "torch_abi_target", "cxx_compiler", "cxx_flags", "instruction_set_in_use"):
        assert config[name], name
    assert "-ffp-contract=off" in config["cxx_flags"]
    assert "march=native" not in config["cxx_flags"]
    assert "fast-math" not in config["cxx_flags"]
    assert config["instruction_sets_compiled"]
    assert config["cuda_operators_loaded"] in (True, False)
    json.dumps(config)

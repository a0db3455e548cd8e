"""How much of what a device can compute goes into the model."""

from __future__ import annotations

from typing import Any

import torch

# TFLOP/s that the makers publish for dense products, by what the device's name holds: in bf16, and in fp32 as torch
# multiplies it by default, without tensor cores.
_PEAKS = {"B200": (2250.0, 75.0), "H200": (989.4, 67.0), "H100 PCIe": (756.0, 51.0), "H100": (989.4, 67.0)}
_PEAKS |= {"A100": (312.0, 19.5), "L40S": (362.0, 91.6)}


def operations(config: Any, tokens: float, squares: float, masked: float) -> float:
    """Floating-point operations of an update's products; what is computed beside them does not count.

    Of L layers, d dimensions, f of the feed-forward layer and V tokens in the vocabulary, forward and twice that
    backward: 3 * (L * (2 n (4 d**2 + 2 d f) + 4 d s) + 2 m (d**2 + d V)).

    Parameters
    ----------
    config
        Of the `transformers` model.
    tokens, squares, masked
        n, real tokens; s, the sum over cells of their squared numbers, for attention; m, masked genes.
    """
    hidden = config.hidden_size
    layer = 2 * tokens * (4 * hidden**2 + 2 * hidden * config.intermediate_size) + 4 * hidden * squares
    return 3 * (config.num_hidden_layers * layer + 2 * masked * (hidden**2 + hidden * config.vocab_size))


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """TFLOP/s that are published for a CUDA device; None for others."""
    if device.type != "cuda":
        return None
    return published_tflops(torch.cuda.get_device_name(device), precision)


def published_tflops(name: str, precision: str) -> float | None:
    """The same by the name that CUDA gives the device."""
    found = [peaks for words, peaks in _PEAKS.items() if all(word in name for word in words.split())]
    return found[0][0 if precision == "bf16" else 1] if found else None

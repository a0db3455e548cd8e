"""How much memory there is to use."""

from __future__ import annotations

import os
import re

from corrmask.errors import InputError


def memory_budget(memory: str | float | None, function: str) -> int:
    """Bytes of a budget such as "4GB", "500 MB" or a number of bytes.

    None is four fifths of what is free, shared by the processes that `torchrun` started on this machine. `function` is
    what messages name.

    Raises
    ------
    InputError
        It is neither, or not positive.
    """
    if memory is None:
        return int(0.8 * _available()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e[+]?\d+)?) *([kmgt]?)(i?)b?", str(memory).strip().lower())
    if found is None or float(found[1]) <= 0:
        raise InputError(f"{function}: 'memory' must be an amount such as '4GB' or a number of bytes, got {memory!r}")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " "))


def _available() -> int:
    """Bytes that can be used without swapping (Linux; elsewhere there is no limit to speak of)."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 2**62

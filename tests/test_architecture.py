"""The plan of the house stays true: imports and includes run one way."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "corrmask"

# From the bottom up: a module may import its own layer and those above it in this list.
LAYERS = [
    ["errors", "arguments", "devices", "progress", "files", "parts", "memory", "threads", "staging", "distributed"],
    ["_library", "_build_info", "config"],
    ["ops"],
    ["sources"],
    ["genes", "vocabulary", "geneformer"],
    ["corpus_files", "corpus_writer", "medians", "corpus", "tokenization", "order"],
    ["moments", "covariance", "accumulation", "gene_graph", "graph"],
    ["rewiring", "modules", "groups", "levelling"],
    ["masking", "collating"],
    ["loader"],
    ["arms", "hf", "values"],
    ["model", "packing", "training", "embedding"],
    ["evaluation", "audit", "simulation", "enrichment"],
    ["pl"],
    ["report"],
    ["demo", "bench"],
    ["cli", "__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# What `import corrmask`, the ops, the masker and the graph may import while they are loaded.
CORE = [
    "errors",
    "arguments",
    "devices",
    "progress",
    "files",
    "parts",
    "memory",
    "threads",
    "staging",
    "distributed",
    "_library",
    "config",
    "ops",
    "sources",
    "genes",
    "vocabulary",
    "moments",
    "covariance",
    "accumulation",
]
CORE += ["gene_graph", "graph", "groups", "masking"]
CORE_PACKAGES = {"torch", "numpy", "scipy", "anndata", "pandas", "h5py"}  # the last two are anndata's own


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def top(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path, *, at_load: bool = False) -> set[str]:
    """Dotted names that a file imports; with `at_load` not those inside functions or for type checkers."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                names.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                assert child.level == 0, f"{path}: imports are absolute here"
                names.update(f"{child.module}.{alias.name}" for alias in child.names)
            else:
                in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
                if not for_types and not (at_load and in_function):
                    visit(child)

    visit(ast.parse(path.read_text()))
    return names


def test_every_module_has_a_layer() -> None:
    assert {top(path) for path in modules()} <= set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "corrmask" or len(parts) == 1 or parts[1] not in LEVEL:
            continue
        assert LEVEL[parts[1]] <= LEVEL[top(path)], f"{path.name} imports {name}, which is a layer below it"


@pytest.mark.parametrize("name", CORE)
def test_the_core_loads_four_packages_alone(name: str) -> None:
    import sys

    paths = [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").exists() else sorted((PACKAGE / name).glob("*.py"))
    assert paths
    for path in paths:
        foreign = {module.split(".")[0] for module in imported(path, at_load=True)}
        assert foreign - set(sys.stdlib_module_names) - CORE_PACKAGES - {"corrmask"} == set(), path


def includes(path: Path) -> list[str]:
    return re.findall(r'^#include [<"]([^">]+)[">]', path.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("path", sorted((ROOT / "csrc" / "portable").iterdir()), ids=lambda path: path.name)
def test_portable_headers_need_neither_torch_nor_libm(path: Path) -> None:
    assert path.suffix == ".h"
    for header in includes(path):
        assert header in {"cstdint", "cstring", "type_traits"} or (path.parent / header).exists(), (
            f"{path.name} includes {header}"
        )


def test_includes_run_one_way() -> None:
    for path in (ROOT / "csrc").rglob("*.*"):
        if path.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
            continue
        folder = path.parent.name
        for header in includes(path):
            assert not (folder == "cpu" and "cuda" in header), path
            assert not (folder == "cuda" and "cpu/" in header), path
            assert not (path.name == "checks.h" and "/" in header and not header.startswith("torch/")), path


def test_every_operator_has_one_name_everywhere() -> None:
    schema = (ROOT / "csrc" / "schema.cpp").read_text()
    operators = set(re.findall(r'"(\w+)\(', schema))
    for folder in ("cpu", "cuda"):
        registering = [path for path in (ROOT / "csrc" / folder).glob("*.c*") if "_LIBRARY_IMPL" in path.read_text()]
        assert {path.stem for path in registering} <= operators
        assert folder == "cuda" or len(registering) == len(operators)
    assert operators == {path.stem for path in (PACKAGE / "ops").glob("[a-z]*.py")}


def test_files_stay_short() -> None:
    """One subject a file: most stay under 300 lines, none passes 450."""
    lengths = {path: len(path.read_text().splitlines()) for path in [*modules(), *(ROOT / "csrc").rglob("*.cpp")]}
    assert max(lengths.values()) <= 450, max(lengths, key=lengths.__getitem__)
    assert sum(length > 300 for length in lengths.values()) <= len(lengths) // 10

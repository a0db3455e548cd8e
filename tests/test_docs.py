"""The documentation: what it names exists, what exists is named, and it builds without a warning."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
import yaml

import corrmask

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
PACKAGES = ("corrmask.ops", "corrmask.audit", "corrmask.training", "corrmask.evaluation")  # those with an __all__
WITHOUT_PAGE = {"hf", "ops", "pl", "values", "__version__"}  # headings and a sentence
page_names = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.fixture(scope="module")
def help_of() -> dict[str, str]:
    """Each command and its --help, as the page of commands has them."""
    sys.path.insert(0, str(DOCS / "scripts"))
    try:
        return dict(importlib.import_module("commands").helps())
    finally:
        sys.path.pop(0)


def resolve(dotted: str) -> Any:
    """The object of a dotted name; a function stands before a module of its name."""
    parts = dotted.split(".")
    found: Any = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            importlib.import_module(".".join(parts[:i]))
        found = getattr(found, part)
    return found


def documented() -> list[str]:
    """What the API pages are made of."""
    return re.findall(r"^   (corrmask\.[\w.]+)$", (DOCS / "api.rst").read_text(), flags=re.MULTILINE)


def blocks(page: Path, language: str) -> Iterator[str]:
    """Code of a page, by language."""
    fence = rf"^```(?:{language}|{{code-cell}} {language})\n(.*?)^```$"
    for code in re.findall(fence, page.read_text(), flags=re.MULTILINE | re.DOTALL):
        yield re.sub(r"^%.*$", "", code, flags=re.MULTILINE)


def test_every_public_name_is_in_the_api() -> None:
    names = documented()
    assert len(names) == len(set(names))
    wanted = {f"corrmask.{name}" for name in set(corrmask.__all__) - WITHOUT_PAGE}
    for package in PACKAGES:
        wanted |= {f"{package}.{name}" for name in importlib.import_module(package).__all__}
    functions = inspect.getmembers(importlib.import_module("corrmask.pl"), inspect.isfunction)
    wanted |= {f"corrmask.pl.{name}" for name, _ in functions if not name.startswith("_")}
    assert wanted <= set(names)
    assert all(name in (DOCS / "api.rst").read_text() for name in WITHOUT_PAGE)


@pytest.mark.parametrize("name", documented())
def test_docstrings_name_the_parameters(name: str) -> None:
    docscrape = pytest.importorskip("numpydoc.docscrape")
    found = resolve(name)
    methods = inspect.getmembers(found, inspect.isroutine) if inspect.isclass(found) else []
    own = [one for key, one in methods if key[0] != "_" and str(getattr(one, "__module__", "")).startswith("corrmask")]
    for one in [found, *own]:
        text = inspect.getdoc(one)
        assert text, f"{one} has no docstring"
        sections = docscrape.NumpyDocString(text)
        told = [each.strip() for entry in sections["Parameters"] for each in entry.name.split(",")]
        if told:
            assert set(told) == set(inspect.signature(one).parameters) - {"self", "cls"}, one


def test_every_command_has_its_help(help_of: dict[str, str]) -> None:
    readme = (ROOT / "README.md").read_text()
    for command, text in help_of.items():
        assert f"Usage: {command}" in text
        if "COMMAND [ARGS]" not in text:
            assert "Example" in text, command
            assert f"`{command}`" in readme
    # Brackets are markup where they are not escaped: these were lost.
    flat = re.sub(r"[\s│]+", " ", help_of["corrmask pretrain"] + help_of["corrmask bench"])
    assert "[default: a tenth of all]" in flat
    assert "corrmask[bench]" in flat


@page_names
def test_links_and_paths_resolve(page: Path) -> None:
    text = page.read_text()
    made = {
        "commands.md": "commands",
        "scale.md": "scale",
        **dict.fromkeys(("shortcut.png", "masks.png"), "method_figures"),
    }
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)  # of links and of images
    targets += re.findall(r"^```{(?:figure|include)} (\S+)$", text, flags=re.MULTILINE)
    for target in targets:
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if place.parent == DOCS / "generated":
            assert (DOCS / "scripts" / f"{made[place.name]}.py").exists()
            assert place.name in (DOCS / "conf.py").read_text() + (DOCS / "scripts/method_figures.py").read_text()
            continue
        assert place.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", place.read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", one).strip().lower().replace(" ", "-") for one in headings}
    for path in re.findall(r"(?:`| )((?:tests|docs|csrc|benchmarks|corrmask)/[\w/.-]*\w)", text):
        built = path.startswith(("docs/_build", "docs/generated"))
        assert built or (ROOT / path).exists(), f"{page.name}: {path} is not there"


@page_names
def test_code_compiles_and_names_what_exists(page: Path) -> None:
    names: dict[str, Any] = {"corrmask": corrmask}  # of the page: blocks build on one another
    for code in blocks(page, "python"):
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "corrmask":
                names |= {alias.asname or alias.name: resolve(f"{node.module}.{alias.name}") for alias in node.names}
        for node in ast.walk(tree):
            dotted = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if re.fullmatch(r"corrmask(\.\w+)+", dotted):
                resolve(dotted)
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func).split(".")
            if called[0] in names and all(part.isidentifier() for part in called):
                function = names[called[0]]
                for part in called[1:]:
                    function = getattr(function, part)
                allowed = inspect.signature(function).parameters
                assert {one.arg for one in node.keywords if one.arg} <= set(allowed), ast.unparse(node)


@page_names
def test_command_lines_have_options_that_exist(page: Path, help_of: dict[str, str]) -> None:
    for block in blocks(page, "bash"):
        for line in filter(lambda one: one.startswith("corrmask "), block.splitlines()):
            words = shlex.split(line, comments=True)
            command = max((one for one in help_of if words[: len(one.split())] == one.split()), key=len)
            for word in words:
                if word.startswith("-"):
                    assert re.search(rf"(?<![\w-]){word}(?![\w-])", help_of[command]), line


@page_names
def test_no_minus_begins_a_line(page: Path) -> None:
    assert not re.search(r"^ +[-+*] ", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), flags=re.M)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_markdown_shows_what_is_meant(page: Path) -> None:
    text = page.read_text()
    code = [block for language in ("python", "bash", "text") for block in blocks(page, language)]
    assert [line for block in code for line in block.splitlines() if len(line) > 88] == [], "wider than the page"
    prose = re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    assert not re.search(r"\d\*\*\d", prose), "a power outside of code is taken for bold type"


def test_the_specification_says_what_the_kernels_do() -> None:
    from corrmask import order, values
    from corrmask.training import schedule

    text = (DOCS / "specification.md").read_text()
    words = re.search(r"give `((?:[0-9a-f]{8} ?){4})`", text)
    assert words
    zero = torch.zeros(2, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64)
    assert [int(word, 16) for word in words[1].split()] == corrmask.ops.philox4x32(*zero)[0].tolist()
    streams = {name: int(number) for number, name in re.findall(r"^\| (\d+) \| ([\w ]+) \|", text, flags=re.MULTILINE)}
    assert streams == {
        "group seeds": reference.SEEDS,
        "corruption": reference.CORRUPTION,
        "partners": reference.PARTNERS,
        "order of cells": order._STREAM,
        "dropout": schedule._DROPOUT_STREAM,
        "binning": reference.BINNING,
        "values": values._SAMPLING_STREAM,
    }


def test_the_plan_counts_as_the_model_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    from corrmask.model import build_model
    from corrmask.vocabulary import Vocabulary

    monkeypatch.syspath_prepend(str(DOCS / "scripts"))
    scale = importlib.import_module("scale")
    vocabulary = Vocabulary(np.array([f"G{i}" for i in range(100)], dtype=object))
    shape = {"layers": 2, "hidden": 32, "intermediate": 48}
    model = build_model(vocabulary, **shape, heads=2, max_len=70, dropout=0, seed=0)
    built = sum(parameter.numel() for parameter in model.parameters())
    assert scale.parameters(**shape, vocabulary=vocabulary.size, positions=70) == built
    assert scale.ring(8.0, 4) == 12
    assert [scale.hours(seconds) for seconds in (600, 9000)] == ["10 min", "2.5 h"]
    text = scale.page()
    assert all(one.conditions in text for one in scale.INPUTS.values())
    counted = [line for line in text.splitlines() if line.startswith("| corpus |")]
    assert counted == [
        f"| corpus | {scale.CELLS * scale.CORPUS.value / 1e9:,.0f} GB | on disk, seen by all nodes | counted |"
    ]


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "license"} <= set(citation)
    assert str(citation["version"]) == project["version"]
    assert citation["license"] == project["license"]
    paper = citation["preferred-citation"]
    assert [one["family-names"] for one in paper["authors"]] == ["Hacohen", "Bingham", "Perets", "Aran"]
    page = (DOCS / "citing.md").read_text()
    assert paper["title"] in page
    assert paper["url"] in page
    assert f"version = {{{project['version']}}}" in page
    assert project["version"] in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_issue_forms_are_whole(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert set(form) == {"blank_issues_enabled"}
        return
    assert {"name", "description", "body"} <= set(form)
    kinds = {"textarea": {"label"}, "input": {"label"}, "markdown": {"value"}, "dropdown": {"label", "options"}}
    for item in form["body"]:
        assert kinds[item["type"]] <= set(item["attributes"])
    names = [item["id"] for item in form["body"] if "id" in item]
    assert len(names) == len(set(names))


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    """All of it but the writing of HTML: pages read, references resolved, figures drawn, the tutorial executed."""
    for package in ("sphinx", "furo", "myst_nb", "numpydoc"):
        pytest.importorskip(package)
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "dummy", str(DOCS), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-5000:]
    (tutorial,) = tmp_path.rglob("tutorial.ipynb")
    cells = [cell for cell in json.loads(tutorial.read_text())["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(cell["execution_count"] for cell in cells)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert not [output for output in outputs if output.get("name") == "stderr"]

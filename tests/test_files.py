"""Outputs appear whole or not at all."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from corrmask.errors import InputError
from corrmask.files import Contents, check_output, explain, replacing


def write_folder(folder: Path, text: str, names: tuple[str, ...] = ("a", "b")) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write_to_full(path: Path) -> None:
    path.write_text("half")
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def fail_half_way(path: Path, kind: str, error: BaseException) -> None:
    with replacing(path, overwrite=True) as temporary:
        if kind == "file":
            temporary.write_text("half")
        else:
            write_folder(temporary, "half")
        raise error


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True).returncode
    if mounted:
        pytest.skip("cannot mount a small file system here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_new_file_appears_under_its_name_only(tmp_path: Path) -> None:
    path = tmp_path / "out.h5ad"
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".h5ad"
        assert not temporary.exists()
        temporary.write_text("new")
        assert not path.exists()
    assert contents(tmp_path) == {"out.h5ad": "new"}


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(InputError, match=r"exists already; pass --overwrite"), replacing(path) as temporary:
        temporary.write_text("new")
    assert contents(tmp_path) == {"out": "old"}
    with replacing(path, overwrite=True) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert contents(tmp_path) == {"out": "new"}


@pytest.mark.parametrize("old", ["file", "folder", "link", "dangling"])
@pytest.mark.parametrize("new", ["file", "folder"])
def test_anything_replaces_anything(tmp_path: Path, old: str, new: str) -> None:
    path, target = tmp_path / "out", tmp_path / "target"
    if old == "file":
        path.write_text("old")
    elif old == "folder":
        write_folder(path, "old", ("a", "gone"))
    else:
        path.symlink_to(target)
        if old == "link":
            target.write_text("target")
    with pytest.raises(InputError, match="exists already"):
        check_output(path)
    with replacing(path, overwrite=True) as temporary:
        if new == "file":
            temporary.write_text("new")
        else:
            write_folder(temporary, "new")
    assert not path.is_symlink()
    expected = {"out": "new"} if new == "file" else {"out/a": "new", "out/b": "new"}
    assert contents(tmp_path) == expected | ({"target": "target"} if old == "link" else {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(["out"] + ["target"] * (old == "link"))


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_exception_leaves_the_old_one_untouched(tmp_path: Path, error: BaseException, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "file":
        path.write_text("old")
    else:
        write_folder(path, "old")
    before = contents(tmp_path)
    with pytest.raises(type(error)) as caught:
        fail_half_way(path, kind, error)
    assert caught.value is error
    assert contents(tmp_path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_rename_that_fails_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    write_folder(path, "old")
    rename = os.replace

    def fails_for_the_new_one(source: Path, target: Path) -> None:
        if ".part" in str(source):
            raise OSError(errno.EIO, "broken")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fails_for_the_new_one)
    with pytest.raises(OSError, match="broken"), replacing(path, overwrite=True) as temporary:
        write_folder(temporary, "new")
    assert contents(tmp_path) == {"out/a": "old", "out/b": "old"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(InputError, match="no space left on the disk") as caught,
        replacing(path, overwrite=True) as part,
    ):
        part.write_text("new")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert contents(tmp_path) == {"out": "old"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_write_that_finds_the_disk_full(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no space left"), replacing(tmp_path / "out") as temporary:
        write_to_full(temporary)
    assert contents(tmp_path) == {}


def test_the_error_of_another_library_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no space left"), replacing(tmp_path / "out"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def write_beside_another() -> None:
        with replacing(tmp_path / "out") as temporary:
            temporary.write_text("ours")
            (tmp_path / "out").write_text("another's")

    with pytest.raises(InputError, match="exists already"):
        write_beside_another()
    assert contents(tmp_path) == {"out": "another's"}


def test_a_way_through_what_is_replaced(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", "old", ("data",))
    with replacing(tmp_path / "out" / ".." / "out", overwrite=True) as temporary:
        write_folder(temporary, "new", ("data",))
    assert contents(tmp_path) == {"out/data": "new"}


def test_a_small_disk_runs_full(small_disk: Path) -> None:
    path = small_disk / "out"
    path.write_text("old")
    with pytest.raises(InputError, match="no space left"), replacing(path, overwrite=True) as temporary:
        temporary.write_bytes(bytes(1 << 20))
    assert contents(small_disk) == {"out": "old"}
    assert [entry.name for entry in small_disk.iterdir()] == ["out"]


def test_hdf5_on_a_small_disk(small_disk: Path) -> None:
    # in a process of its own: HDF5 cannot close a file that it could not flush, and says so again at exit
    script = (
        "import sys, h5py, numpy\n"
        "from pathlib import Path\n"
        "from corrmask.errors import InputError\n"
        "from corrmask.files import replacing\n"
        "try:\n"
        "    with replacing(Path(sys.argv[1])) as temporary, h5py.File(temporary, 'w') as file:\n"
        "        file['x'] = numpy.arange(1 << 18)\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    path = small_disk / "out.h5ad"
    result = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert "no space left on the disk" in result.stdout, result.stderr
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path))

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    with pytest.raises(InputError, match="the folder is not writable; change its permissions"):
        check_output(tmp_path / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_rights(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(InputError, match="the folder is not writable"):
        check_output(folder / "out")


def test_rights_that_are_lost_on_the_way(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder is not writable"), replacing(tmp_path / "out") as temporary:
        raise PermissionError(errno.EACCES, "Permission denied", str(temporary / "part-0"))


def test_an_input_without_rights_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match=r"cells\.h5ad"), replacing(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "cells.h5ad"))


def test_outputs_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="does not exist; create it first"):
        check_output(tmp_path / "none" / "out")
    monkeypatch.chdir(tmp_path)
    for name in (".", "..", "/"):
        with pytest.raises(InputError, match="choose another name"):
            check_output(name, overwrite=True)
    assert check_output("out") == Path("out")
    with replacing("out") as temporary:
        temporary.write_text("relative")
    assert contents(tmp_path) == {"out": "relative"}


def test_only_an_output_of_the_same_kind_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "a.csv").write_text("mine")
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "earlier", "old", ("vocabulary.json", "data"))
    before = contents(tmp_path)
    kind, store = Contents(("vocabulary.json",), ("*.json", "dat?")), Contents(("zarr.json", ".zgroup"), ("*",))
    for name, contents_of_kind, words in (
        ("notes", kind, "is a folder without vocabulary.json; choose another name"),
        ("notes", store, "without zarr.json or .zgroup"),
        ("notes", None, "is a folder, not a file"),
        ("a.csv", kind, "is a file, not a folder"),
        ("earlier", Contents(kind.markers, kind.markers), "'data' in it would be lost; move it away or choose another"),
    ):
        with pytest.raises(InputError, match=words):
            check_output(tmp_path / name, overwrite=True, contents=contents_of_kind)
        with pytest.raises(InputError, match="exists already"):
            check_output(tmp_path / name, contents=contents_of_kind)
    for name, contents_of_kind in (("empty", store), ("earlier", kind), ("a.csv", None), ("new", kind)):
        check_output(tmp_path / name, overwrite=True, contents=contents_of_kind)
    assert contents(tmp_path) == before


def test_no_input_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "run", "cells", ("cells.h5ad", "b.h5ad"))
    (tmp_path / "link.h5ad").symlink_to(tmp_path / "run" / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for output, given in (
        ("run/cells.h5ad", "run/cells.h5ad"),
        ("run/cells.h5ad", tmp_path / "run" / "cells.h5ad"),
        ("run/cells.h5ad", "link.h5ad"),
        ("run", Path("run/b.h5ad")),
        ("run", "run/*.h5ad"),
        (tmp_path / "run", "run"),
        ("link.h5ad", "link.h5ad"),
        ("run", "**/b.h5ad"),
        ("run/b.h5ad", "~/run/b.h5ad"),
        ("run/b.h5ad", SimpleNamespace(filename=Path("run/b.h5ad"))),  # as a backed AnnData has it
    ):
        for overwrite in (False, True):
            with pytest.raises(InputError, match="would replace the input"):
                check_output(output, overwrite=overwrite, inputs=[None, np.zeros(2), given])
    check_output("link.h5ad", overwrite=True, inputs=["run/cells.h5ad"])  # the link is replaced, not what it points to
    check_output("run/b.h5ad", overwrite=True, inputs=["run/cells.h5ad", "none*"])
    check_output("new", inputs=["run"])


def test_any_other_error_says_what_it_was() -> None:
    assert explain(OSError(errno.EIO, "Input/output error"), "x") == "output 'x': Input/output error"


def dead_process() -> str:
    """What a process of this machine that lives no more has in the names of its files."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return f"{socket.gethostname()}-{process.pid}"


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    dead, alive = dead_process(), f"{socket.gethostname()}-{os.getppid()}"
    (tmp_path / f".out.{dead}.part.h5ad").write_text("half")
    write_folder(tmp_path / f".out.h5ad.{dead}.old", "older")
    for name in (f".out.{alive}.part.h5ad", f".other.{dead}.part.h5ad", ".out.elsewhere-1.part.h5ad"):
        (tmp_path / name).write_text("kept")
    with replacing(tmp_path / "out.h5ad", overwrite=True) as temporary:
        temporary.write_text("new")
    assert sorted(contents(tmp_path)) == sorted(
        ["out.h5ad", f".out.{alive}.part.h5ad", f".other.{dead}.part.h5ad", ".out.elsewhere-1.part.h5ad"]
    )


def test_an_output_that_a_killed_process_set_aside_comes_back(tmp_path: Path) -> None:
    write_folder(tmp_path / f".out.{dead_process()}.old", "old")
    with pytest.raises(InputError, match="exists already"):
        check_output(tmp_path / "out")
    assert contents(tmp_path) == {"out/a": "old", "out/b": "old"}

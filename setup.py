"""Builds the native libraries with CMake. CORRMASK_CUDA=auto|0|1 decides on CUDA (auto: where nvcc is found)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def find_nvcc() -> str | None:
    """The CUDA compiler: of CUDA_HOME, on the path, or in the usual place."""
    candidates = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    for home in filter(None, candidates):
        nvcc = Path(home) / "bin" / "nvcc"
        if nvcc.exists():
            return str(nvcc)
    return shutil.which("nvcc")


def choose_cuda() -> str | None:
    """The nvcc to build CUDA with, or None to build without: never a question of whether a GPU is present."""
    choice = os.environ.get("CORRMASK_CUDA", "auto")
    if choice not in {"auto", "0", "1"}:
        sys.exit(f"corrmask: CORRMASK_CUDA must be auto, 0 or 1, got {choice!r}")
    nvcc = None if choice == "0" else find_nvcc()
    if choice == "1" and nvcc is None:
        sys.exit(
            "corrmask: CORRMASK_CUDA=1 but no CUDA toolkit was found; install one (nvcc), set CUDA_HOME to it, "
            "or build without CUDA (CORRMASK_CUDA=0)"
        )
    return nvcc


class CMakeBuild(build_ext):
    """Runs CMake once; its libraries go beside the Python files."""

    def run(self) -> None:
        import pybind11

        torch_root = Path(find_spec("torch").submodule_search_locations[0])
        package = ROOT / "corrmask" if self.inplace else Path(self.build_lib).resolve() / "corrmask"
        nvcc = choose_cuda()
        arguments = [
            f"-DTORCH_ROOT={torch_root}",
            f"-DTORCH_VERSION={version('torch')}",
            f"-DPYBIND11_INCLUDE={pybind11.get_include()}",
            f"-DPYTHON_INCLUDE={sysconfig.get_path('include')}",
            f"-DPYTHON_SUFFIX={sysconfig.get_config_var('EXT_SUFFIX')}",
            f"-DCORRMASK_VERSION={self.distribution.get_version()}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={package}",
            f"-DCORRMASK_CUDA={'ON' if nvcc else 'OFF'}",
            f"-DCORRMASK_WERROR={os.environ.get('CORRMASK_WERROR', 'OFF')}",
            f"-DCORRMASK_SANITIZE={os.environ.get('CORRMASK_SANITIZE', 'OFF')}",
        ]
        if nvcc:
            arguments.append(f"-DCMAKE_CUDA_COMPILER={nvcc}")
        if shutil.which("ninja"):
            arguments += ["-G", "Ninja"]
        build = Path(self.build_temp).resolve() / "cmake"
        if (build / "CMakeCache.txt").exists():  # an isolated build leaves paths behind that are gone by the next one
            (build / "CMakeCache.txt").unlink()
        package.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cmake", "-S", ROOT, "-B", build, *arguments], check=True)
        subprocess.run(["cmake", "--build", build, "--parallel", str(os.cpu_count() or 1)], check=True)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in (Path(self.build_lib) / "corrmask").glob("*.so")]


setup(ext_modules=[Extension("corrmask._build_info", sources=[])], cmdclass={"build_ext": CMakeBuild})

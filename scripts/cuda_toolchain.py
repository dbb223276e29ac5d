#!/usr/bin/env python3
"""NVIDIA's compiler and assemblers from PyPI, in virtual environments under target/: no toolkit, GPU or driver needed.

    scripts/cuda_toolchain.py        installs what is missing and prints where nvcc, ptxas (both), nvdisasm are
"""
import pathlib
import shutil
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "target" / "cuda"
NEWEST = [
    "nvidia-cuda-nvcc==13.5.37",
    "nvidia-nvvm==13.5.37",
    "nvidia-cuda-crt==13.5.37",
    "nvidia-cuda-cccl==13.3.5.0.6",
    "nvidia-cuda-runtime==13.5.37",
    "nvidia-cuda-nvdisasm==13.5.37",
    "nvidia-cuda-cuobjdump==13.5.37",
]
# The oldest driver promised is that of CUDA 12.0: what its ptxas assembles, that driver loads.
OLDEST = ["nvidia-cuda-nvcc-cu12==12.0.140"]


def install(name, packages):
    """A virtual environment with exactly these packages; made again when the list changes."""
    folder = FOLDER / name
    stamp = folder / "packages"
    if not stamp.exists() or stamp.read_text().split() != packages:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, *packages], check=True)
        stamp.write_text("\n".join(packages))
    return next(folder.glob("lib/python3*/site-packages"))


def tools():
    """Paths of `nvcc`, `ptxas`, `nvdisasm`, and `ptxas12` of CUDA 12.0."""
    newest, oldest = install("newest", NEWEST), install("oldest", OLDEST)
    bin = newest / "nvidia" / "cu13" / "bin"
    return {
        "nvcc": bin / "nvcc",
        "ptxas": bin / "ptxas",
        "nvdisasm": bin / "nvdisasm",
        "ptxas12": oldest / "nvidia" / "cuda_nvcc" / "bin" / "ptxas",
    }


if __name__ == "__main__":
    for name, path in tools().items():
        print(f"{name:9}{path}")
        if not path.exists():
            sys.exit(f"{path} is missing")

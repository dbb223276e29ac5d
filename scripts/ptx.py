#!/usr/bin/env python3
"""Writes kernels/ptx, the PTX embedded where there is no nvcc: runs build.rs with the compiler of cuda_toolchain.py.

    scripts/ptx.py            writes it anew
    scripts/ptx.py --check    fails unless that would change nothing
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from cuda_toolchain import ROOT, tools

KEPT = ROOT / "kernels" / "ptx"


def main():
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        subprocess.run(["rustc", "--edition", "2024", ROOT / "build.rs", "-o", out / "build"], check=True)
        variables = {
            "CARGO_FEATURE_CUDA": "1",
            "CARGO_MANIFEST_DIR": str(ROOT),
            "NVCC": str(tools()["nvcc"]),
            "OUT_DIR": str(out),
            "TRILINEAR_PTX": "compile",
        }
        environment = {**os.environ, **variables}
        told = subprocess.run([out / "build"], env=environment, check=True, capture_output=True, text=True)
        errors = [line for line in told.stdout.splitlines() if line.startswith("cargo::error")]
        if errors:
            sys.exit("\n".join(errors))
        fresh = {path.name: path.read_bytes() for path in (out / "ptx").glob("*.ptx")}
    kept = {path.name: path.read_bytes() for path in KEPT.glob("*.ptx")}
    differ = sorted(name for name in fresh.keys() | kept.keys() if fresh.get(name) != kept.get(name))
    if "--check" in sys.argv[1:]:
        if differ:
            sys.exit(f"kernels/ptx differs from what nvcc writes: {', '.join(differ)}; run scripts/ptx.py")
        print(f"kernels/ptx: {len(kept)} modules, as nvcc writes them")
        return
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir()
    for name, text in fresh.items():
        (KEPT / name).write_bytes(text)
    print(f"kernels/ptx: {len(fresh)} modules, {len(differ)} changed")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""CP decompositions by this crate and by TensorLy's `parafac`, side by side on one thread.

    cargo build --release --features cli --example decompose
    python3 scripts/fit_tensorly.py [--data kinships] [--rank 8,32] [--iterations 50] [--rounds 5] [--mttkrp 256]

Needs `pip install tensorly numpy`; `pytblis` takes part in `--mttkrp` if it is there. Tensors are the knowledge graphs in
examples/data as relations × heads × tails. Both programs start from the same random factors and make the same number of
iterations. They take turns; times are those of the processor, so that a busy machine does not count, the least of the rounds; and the errors are computed here from the results'
reconstruction (TensorLy's) or taken from the report (ours, which tests/decompose.rs compares with the reconstruction). TensorLy
runs with tol = 0, so that it does not even compute errors, which is its fastest.

`--mttkrp N` times the products of an N × N × N tensor with factors along each axis instead, against TensorLy, NumPy's einsum
(with and without an optimised path), matmul with the Khatri-Rao product, and two steps of matmul.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TBLIS_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np
import tensorly as tl
from tensorly.cp_tensor import CPTensor, cp_to_tensor, unfolding_dot_khatri_rao
from tensorly.decomposition import parafac

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "target" / "release" / "examples" / "decompose"


def graph(name):
    """1 where a triple of any split is."""
    lines = (ROOT / "examples" / "data" / f"{name}.tsv").read_text().splitlines()
    entities, relations = (len(line.split("\t")) - 1 for line in lines[:2])
    w = np.zeros((relations, entities, entities))
    for line in lines[2:]:
        head, relation, tail = map(int, line.split("\t")[1:])
        w[relation, head, tail] = 1
    return w


def ours(folder, w, factors, iterations, dtype):
    """Error and seconds of the best of several fits in one process."""
    files = [folder / f"{name}.npy" for name in ("w", "a", "b", "c")]
    for file, array in zip(files, (w, *factors)):
        np.save(file, np.ascontiguousarray(array, dtype=np.float64))
    command = [EXAMPLE, "--tensor", files[0], "--factors", *files[1:], "--iterations", str(iterations), "--tolerance", "0"]
    command += ["--repeat", str(max(3, int(3e8 / (w.size * factors[0].shape[1] * iterations))))] + (["--double"] if dtype == np.float64 else [])
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def theirs(w, factors, iterations):
    init = CPTensor((None, [factor.copy() for factor in factors]))
    began = time.process_time()
    fit = parafac(w, rank=factors[0].shape[1], init=init, n_iter_max=iterations, tol=0)
    seconds = time.process_time() - began
    fit = CPTensor((fit.weights.astype(np.float64), [factor.astype(np.float64) for factor in fit.factors]))
    return np.linalg.norm(w.astype(np.float64) - cp_to_tensor(fit)) / np.linalg.norm(w.astype(np.float64)), seconds


def fits(args):
    print("data      shape           R  type  error TensorLy  error ours  difference  ms TensorLy   ms ours  ratio  MTTKRP")
    for name in args.data.split(","):
        w64 = graph(name)
        for rank in map(int, args.rank.split(",")):
            for dtype in (np.float32, np.float64):
                w = w64.astype(dtype)
                random = np.random.default_rng(0)
                factors = [random.uniform(size=(len_, rank)).astype(dtype) for len_ in w.shape]
                with tempfile.TemporaryDirectory() as folder:
                    rounds = []
                    for _ in range(args.rounds):
                        rounds.append((ours(pathlib.Path(folder), w, factors, args.iterations, dtype), theirs(w, factors, args.iterations)))
                mine = min((mine for mine, _ in rounds), key=lambda fit: fit["processor_seconds"])
                error, seconds = rounds[0][1][0], min(seconds for _, (_, seconds) in rounds)
                difference = abs(mine["error"] - error) / error
                shape = "×".join(map(str, w.shape))
                print(
                    f"{name:9} {shape:11} {rank:5}  {'f32' if dtype == np.float32 else 'f64'} {error:15.8f} {mine['error']:11.8f} "
                    f"{difference:11.1e} {seconds * 1e3:12.2f} {mine['processor_seconds'] * 1e3:9.2f} {seconds / mine['processor_seconds']:6.1f} "
                    f"{mine['mttkrp_seconds'] / mine['seconds']:7.0%}",
                    flush=True,
                )


def ways(w, factors, mode):
    """Name and function of each way to the product along `mode`."""
    others = [factors[axis] for axis in range(3) if axis != mode]
    text = ("kij,ir,jr->kr", "kij,kr,jr->ir", "kij,kr,ir->jr")[mode]
    lengths, rank = w.shape, others[0].shape[1]

    def khatri_rao():
        product = (others[0][:, None, :] * others[1][None, :, :]).reshape(-1, rank)
        if mode == 2:
            return w.reshape(-1, lengths[2]).T @ product
        return np.moveaxis(w, mode, 0).reshape(lengths[mode], -1) @ product

    def two_steps():
        if mode == 2:  # a first: [IJ, K] [K, R], then b by rows
            half = (w.reshape(lengths[0], -1).T @ others[0]).reshape(lengths[1], lengths[2], rank)
            return np.einsum("ijr,ir->jr", half, others[1])
        half = (w.reshape(-1, lengths[2]) @ others[1]).reshape(lengths[0], lengths[1], rank)
        return np.einsum("kir,ir->kr" if mode == 0 else "kir,kr->ir", half, others[0])

    result = {
        "TensorLy": lambda: unfolding_dot_khatri_rao(w, (None, factors), mode),
        "Khatri-Rao, matmul": khatri_rao,
        "two matmuls": two_steps,
        "einsum, optimised": lambda: np.einsum(text, w, *others, optimize=True),
    }
    try:
        import pytblis

        result["pytblis"] = lambda: pytblis.einsum(text, w, *others)
    except ImportError:
        pass
    return result


def products(args):
    n = args.mttkrp
    random = np.random.default_rng(0)
    w = random.uniform(-1, 1, (n, n, n)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "w.npy"
        np.save(file, w.astype(np.float64))
        for rank in map(int, args.rank.split(",")):
            factors = [random.uniform(-1, 1, (n, rank)).astype(np.float32) for _ in range(3)]
            least, mine = {}, None
            for _ in range(args.rounds):
                command = [EXAMPLE, "--tensor", file, "--rank", str(rank), "--mttkrp"]
                told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                mine = told if mine is None else {
                    "seconds": [min(pair) for pair in zip(mine["seconds"], told["seconds"])],
                    "of_peak": [max(pair) for pair in zip(mine["of_peak"], told["of_peak"])],
                    "peak": max(mine["peak"], told["peak"]),
                }
                for mode in range(3):
                    for name, way in ways(w, factors, mode).items():
                        began = time.process_time()
                        way()
                        seconds = time.process_time() - began
                        least[mode, name] = min(least.get((mode, name), float("inf")), seconds)
            for mode in range(3):
                best, name = min((seconds, name) for (of, name), seconds in least.items() if of == mode)
                print(
                    f"{n}³ rank {rank:4} along axis {mode}: {mine['seconds'][mode] * 1e3:8.2f} ms, {mine['of_peak'][mode]:4.0%} of peak; "
                    f"{best / mine['seconds'][mode]:5.2f} × the best of the others, {name} ({best * 1e3:.2f} ms)",
                    flush=True,
                )
                others = ", ".join(f"{name} {seconds * 1e3:.1f}" for (of, name), seconds in least.items() if of == mode)
                print(f"      {others} ms", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="nations,kinships,umls")
    parser.add_argument("--rank", default="8,32")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mttkrp", type=int, metavar="N", help="the products of an N × N × N tensor instead of fits")
    args = parser.parse_args()
    tl.set_backend("numpy")
    products(args) if args.mttkrp else fits(args)


if __name__ == "__main__":
    main()

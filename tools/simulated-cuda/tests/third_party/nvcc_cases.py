"""Cases from CUDA C++ with NVIDIA's own headers, by nvcc (PyPI)."""

import math
import subprocess
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

from case import EPS, Buffer, Case
from triton_cases import to_tf32

HERE = Path(__file__).parent


def nvcc():
    import nvidia

    for base in nvidia.__path__:
        for path in Path(base).glob("cu*/bin/nvcc"):
            return path
    raise FileNotFoundError("nvcc: pip install nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-cccl nvidia-cuda-runtime")


class Module:
    def __init__(self, name, capability=80, flags=()):
        self.name, self.capability = name, capability
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.ptx"
            command = [nvcc(), "-ptx", f"-arch=compute_{capability}", "-std=c++17", *flags, "-o", out]
            subprocess.run([*command, HERE / "cuda" / f"{name}.cu"], check=True)
            self.ptx = out.read_text()

    def case(self, kernel, grid, block, args, about, shared=0):
        grid, block = (tuple(d) + (1,) * (3 - len(d)) for d in (grid, block))
        name = kernel if kernel.startswith(self.name) else f"{self.name}_{kernel}"
        return Case(f"nvcc_{name}", self.ptx, kernel, grid, block, args, shared, self.capability, about, f"nvcc_{self.name}")


def i32(value):
    return ("i32", value)


def wmma():
    module = Module("wmma")
    f16, bf16, f32, f64 = np.float16, ml_dtypes.bfloat16, np.float32, np.float64
    m, n = 32, 64
    about = "C = A Bᵀ by NVIDIA's mma.h, 32 x 64 x "
    for seed, (kernel, kind, out, tile, depth) in enumerate([
        ("wmma_f16", f16, f32, (16, 16), 48), ("wmma_f16_f16", f16, f16, (32, 8), 48),
        ("wmma_bf16", bf16, f32, (8, 32), 48), ("wmma_tf32", f32, f32, (16, 16), 24), ("wmma_f64", f64, f64, (8, 8), 20),
        ("wmma_s8", np.int8, np.int32, (16, 16), 48), ("wmma_shared", f16, f32, (16, 16), 48),
    ], 100):
        rng = np.random.default_rng(seed)
        a, b = rng.standard_normal((m, depth)), rng.standard_normal((n, depth))
        if kind is np.int8:
            a, b = rng.integers(-128, 128, (2, 64, depth)).astype(np.int8)
            a = a[:m]
        elif kernel == "wmma_tf32":
            a, b = to_tf32(a), to_tf32(b)
        else:
            a, b = a.astype(kind), b.astype(kind)
        exact = (a.astype(np.longdouble) @ b.astype(np.longdouble).T).astype(f64)
        magnitude = np.abs(a.astype(f64)) @ np.abs(b.astype(f64)).T
        # As in the Triton cases; f16 sums are rounded once for each instruction of depth 16.
        bound = {f32: (depth + 1) * 2 * EPS, f16: (depth + 1) * 2 * EPS + (depth // 16) * 2.0**-11 * 1.01,
                 f64: (depth + 1) * 2.0**-52, np.int32: 0}[out] * magnitude
        if kernel == "wmma_shared":
            exact, bound = 2 * exact, 2 * bound
        args = [Buffer(a), Buffer(b), Buffer(expected=exact, bound=bound, dtype=out), i32(n), i32(depth)]
        yield module.case(kernel, (n // tile[1], m // tile[0]), (32,), args, about + str(depth))


def cutlass():
    import cutlass_library

    include = Path(cutlass_library.__path__[0]) / "source" / "include"
    module = Module("cutlass", flags=("--expt-relaxed-constexpr", "-I", str(include)))
    bf16, f32, f64 = ml_dtypes.bfloat16, np.float32, np.float64
    # Of tiles beyond the edge CUTLASS leaves rows of shared memory unwritten, reads them, and stores nothing that depends on
    # them: harmless, and an error to the sanitizer.
    for seed, (name, kind, out, tile, (m, n, k), shared) in enumerate([
        ("f16", np.float16, f32, (64, 64), (128, 64, 88), 24576), ("bf16", bf16, bf16, (128, 64), (128, 64, 160), 49152),
        ("tf32", f32, f32, (64, 64), (64, 128, 44), 24576), ("f64", f64, f64, (32, 32), (64, 32, 35), 24576),
        ("f32", f32, f32, (64, 64), (64, 64, 37), 16384), ("f16", np.float16, f32, (64, 64), (72, 40, 88), 24576),
        ("f32", f32, f32, (64, 64), (70, 45, 37), 16384),
    ], 600):
        rng = np.random.default_rng(seed)
        a, b = rng.standard_normal((m, k)), rng.standard_normal((n, k))
        a, b = (to_tf32(x) if name == "tf32" else x.astype(kind) for x in (a, b))
        exact = (a.astype(np.longdouble) @ b.astype(np.longdouble).T).astype(f64)
        magnitude = np.abs(a.astype(f64)) @ np.abs(b.astype(f64)).T
        # As in the Triton cases.
        bound = (k + 1) * (2.0**-52 if out is f64 else 2 * EPS) * magnitude
        if out is bf16:
            bound = bound + np.abs(exact) * 2.0**-8 * 1.001
        args = [Buffer(a), Buffer(b), Buffer(expected=exact, bound=bound, dtype=out), i32(m), i32(n), i32(k)]
        grid = (-(-m // tile[0]), -(-n // tile[1]))
        about = f"CUTLASS, {m} x {n} x {k} in tiles of {tile[0]} x {tile[1]}"
        case = module.case(f"cutlass_{name}", grid, (128,), args, about, shared)
        case.sanitizer = m % tile[0] == n % tile[1] == 0
        case.name += "" if case.sanitizer else "_edges"
        yield case


def groups():
    module = Module("groups")
    rng = np.random.default_rng(200)
    threads, blocks = 128, 3
    n = threads * blocks
    x = rng.integers(-1000, 1000, n, np.int32)
    sums = [Buffer(expected=x.reshape(-1, size).sum(1), dtype=np.int32) for size in (4, 16, 32)]
    most = Buffer(np.full(1, -(2**31), np.int32), x.max(keepdims=True), dtype=np.int32)
    yield module.case("groups_reduce", (blocks,), (threads,), [Buffer(x), *sums, most], "cooperative groups: tiles of a warp")

    x = rng.standard_normal(n, np.float32)
    warps = x.reshape(-1, 32).astype(np.float64)
    positive = (warps > 0).astype(np.int32)
    sums = np.repeat(warps.sum(1), 32)
    bound = 6 * EPS * np.repeat(np.abs(warps).sum(1), 32)
    args = [Buffer(x), Buffer(expected=sums, bound=bound, dtype=np.float32),
            Buffer(expected=(np.cumsum(positive, 1) - positive).ravel(), dtype=np.int32)]
    yield module.case("groups_scan", (blocks,), (threads,), args, "cooperative groups: f32 sum in 5 levels, exclusive scan")

    n = 300
    x = rng.integers(0, 1 << 20, n, np.int32)
    kept = np.full(n, -1)
    multiples = x[x % 3 == 0]
    kept[: len(multiples)] = multiples
    args = [Buffer(x), Buffer(np.full(n, -1, np.int32), kept, dtype=np.int32, unordered=True),
            Buffer(np.zeros(1, np.uint32), np.array([len(multiples)]), dtype=np.uint32), i32(n)]
    yield module.case("groups_coalesced", (3,), (threads,), args, "cooperative groups: the threads that take a branch")

    x = rng.integers(0, 5, threads, np.int32)
    equal = x.reshape(-1, 32)[:, :, None] == x.reshape(-1, 32)[:, None, :]
    indices = np.arange(threads).reshape(-1, 1, 32)
    args = [Buffer(x), Buffer(expected=equal.sum(2).ravel(), dtype=np.int32),
            Buffer(expected=(equal * indices).sum(2).ravel(), dtype=np.int32)]
    yield module.case("groups_labeled", (1,), (threads,), args, "cooperative groups: threads of equal value (match.sync)")

    x = rng.integers(-(2**31), 2**31, (2, 128, 4), np.int32)
    args = [Buffer(x), Buffer(expected=x[:, ::-1], dtype=np.int32)]
    yield module.case("groups_copy", (2,), (128,), args, "cooperative groups: memcpy_async")


def cub():
    module = Module("cub")
    rng = np.random.default_rng(300)
    threads, items, blocks = 128, 4, 2
    n = threads * items
    x = rng.integers(-(10**6), 10**6, (blocks, n), np.int32)
    sums = np.cumsum(x, 1)
    args = [Buffer(x), Buffer(expected=sums, dtype=np.int32), Buffer(expected=sums[:, -1], dtype=np.int32)]
    yield module.case("cub_scan", (blocks,), (threads,), args, "CUB: transposed load, scan, transposed store")

    x = rng.standard_normal(300).astype(np.float32)
    padded = np.concatenate([x, np.zeros(84, np.float32)]).reshape(3, threads).astype(np.float64)
    # 5 levels of shuffles, then 3 more across warps.
    args = [Buffer(x), Buffer(expected=padded.sum(1), bound=8 * EPS * np.abs(padded).sum(1), dtype=np.float32),
            Buffer(expected=padded.max(1), dtype=np.float32), i32(300)]
    yield module.case("cub_reduce", (3,), (threads,), args, "CUB: two algorithms of a block's reduction")

    keys = rng.integers(0, 1000, (blocks, n)).astype(np.uint32) * np.uint32(4_000_037)
    values = np.arange(blocks * n, dtype=np.int32).reshape(blocks, n)
    order = np.argsort(keys, 1, kind="stable")
    args = [Buffer(keys), Buffer(values), Buffer(expected=np.take_along_axis(keys, order, 1), dtype=np.uint32),
            Buffer(expected=np.take_along_axis(values, order, 1), dtype=np.int32)]
    yield module.case("cub_sort", (blocks,), (threads,), args, "CUB: stable radix sort of pairs")


def rounded(x, bits, least, largest, how=np.rint):
    """Rounds to `bits` of mantissa, multiples of `least` at least, and to infinity beyond `largest`."""
    x = np.asarray(x, np.longdouble)
    finite = np.where(np.isfinite(x), x, 0)
    unit = np.maximum(np.ldexp(np.longdouble(1), np.frexp(finite)[1] - bits), least)
    result = how(finite / unit) * unit
    beyond = np.abs(result) > largest
    toward = {np.rint: np.inf, np.trunc: largest}.get(how)
    if how is np.ceil:
        toward = np.where(x > 0, np.inf, largest)
    elif how is np.floor:
        toward = np.where(x > 0, largest, np.inf)
    result = np.where(beyond, np.copysign(toward, finite), result)
    return np.where(np.isfinite(x), result, x)


def to_f16(x, how=np.rint):
    return rounded(x, 11, 2.0**-24, 65504, how)


def to_bf16(x, how=np.rint):
    return rounded(x, 8, 2.0**-133, (2 - 2.0**-7) * 2.0**127, how)


def to_f32(x, how=np.rint):
    return rounded(x, 24, 2.0**-149, (2 - 2.0**-23) * 2.0**127, how)


def half():
    module = Module("half")
    n = 128
    for seed, (kernel, kind, to) in enumerate(
        [("half_arithmetic", np.float16, to_f16), ("bfloat_arithmetic", ml_dtypes.bfloat16, to_bf16)], 400
    ):
        rng = np.random.default_rng(seed)
        x, y, z = (to(3 * rng.standard_normal((3, 2 * n))).astype(np.float64)).astype(kind)
        x[:8], y[:8] = [np.inf, -np.inf, 1, np.nan, 0, -0.0, 3, 200], [1, 2, np.inf, 1, -0.0, 0, np.nan, 300]
        a, b, c = (v.astype(np.longdouble) for v in (x, y, z))
        with np.errstate(invalid="ignore"):
            fused = to(a * b + c)
            results = [to(a + b), to(a * b), fused, -to(a - b), np.fmin(a, b), np.fmax(a, b), (a < b) * 1.0,
                       np.where(np.isnan(fused), np.nan, np.maximum(fused, 0)), np.abs(a)]
        args = [Buffer(x), Buffer(y), Buffer(z), Buffer(expected=np.array(results, np.float64), dtype=kind), i32(n)]
        yield module.case(kernel, (2,), (64,), args, "intrinsics on pairs: correctly rounded, infinities and NaN among them")

    rng = np.random.default_rng(410)
    n = 200
    x = (rng.standard_normal(n) * 2.0 ** rng.integers(-28, 15, n)).astype(np.float32)
    x[:12] = [65504, 65519, 65520, 70000, -70000, 2.0**-25, 1.5 * 2.0**-25, -(2.0**-26), 0.5, 2.5, -1.5, 0]
    wide = x.astype(np.longdouble)
    halves = [to_f16(wide, how) for how in (np.rint, np.trunc, np.ceil, np.floor)]
    bfloats = [to_bf16(wide, how) for how in (np.rint, np.trunc)]
    integers = [np.clip(how(halves[0]), -(2**31), 2**31 - 1) for how in (np.rint, np.trunc, np.floor, np.ceil)]
    args = [Buffer(x), Buffer(expected=np.array(halves, np.float64), dtype=np.float32),
            Buffer(expected=np.array(bfloats, np.float64), dtype=np.float32),
            Buffer(expected=np.array(integers, np.float64).astype(np.int64), dtype=np.int32), i32(n)]
    yield module.case("half_conversions", (4,), (64,), args, "cvt in all directions, subnormal and overflowing results too")

    x = np.exp(rng.uniform(-2, 2, n)).astype(np.float16)
    v = x.astype(np.float64)
    exact = np.array([np.sqrt(v), np.exp(v), np.log(v), 1 / v, 1 / np.sqrt(v), np.tanh(v)])
    # One unit in the last place of f16: the f32 approximations are far closer, the final rounding takes half.
    bound = np.abs(np.spacing(exact.astype(np.float16)).astype(np.float64))
    args = [Buffer(x), Buffer(expected=exact, bound=bound, dtype=np.float16), i32(n)]
    yield module.case("half_functions", (4,), (64,), args, "functions that go through approximations")


def scalar():
    module = Module("scalar")
    rng = np.random.default_rng(500)
    n = 300
    # CUDA C++ Programming Guide, "Mathematical Functions": maximum error in units in the last place against the correctly
    # rounded result; half a unit more against the exact one.
    for name, kind, functions in [
        ("math_f32", np.float32, [(np.exp, 1), (np.sin, 2), (np.tanh, 2), (np.vectorize(math.erf), 2), (np.cbrt, 1),
                                  (np.log1p, 1)]),
        ("math_f64", np.float64, [(np.exp, 1), (np.sin, 2), (np.log1p, 1), (np.arctan, 2)]),
    ]:
        x = np.concatenate([rng.uniform(-0.9, 80, n - 20), 10.0 ** -np.arange(1, 11), 3e5 * rng.random(10)]).astype(kind)
        with np.errstate(over="ignore"):
            wide = [np.asarray(f(x.astype(np.longdouble if f is not functions[3][0] else np.float64))) for f, _ in functions]
            exact = np.array(wide, np.float64)
            if kind is np.float32:
                exact[np.abs(exact) > np.finfo(kind).max] = np.inf
            units = [ulp + (0.5 if kind is np.float32 else 1) for _, ulp in functions]
            bound = np.array([u * np.abs(np.spacing(row.astype(kind)).astype(np.float64)) for u, row in zip(units, exact)])
        bound = np.where(np.isfinite(exact), bound, 0)
        args = [Buffer(x), Buffer(expected=exact, bound=bound, dtype=kind), i32(n)]
        yield module.case(name, (3,), (128,), args, "CUDA's mathematical library against its published errors")

    x, y = (rng.standard_normal((2, n)) * 2.0 ** rng.integers(-8, 8, (2, n))).astype(np.float32)
    a, b = x.astype(np.longdouble), y.astype(np.longdouble)
    results = [to_f32(a / b, how) for how in (np.rint, np.trunc, np.ceil, np.floor)]
    results += [to_f32(np.sqrt(np.abs(a))), to_f32(1 / b), to_f32(a * b + 1), to_f32(a + b, np.floor), to_f32(a * b, np.ceil)]
    args = [Buffer(x), Buffer(y), Buffer(expected=np.array(results, np.float64), dtype=np.float32), i32(n)]
    yield module.case("rounded", (3,), (128,), args, "correctly rounded f32 in all directions")

    yield integers(module, rng, n)

    x = rng.integers(0, 1 << 32, n).astype(np.uint32)
    args = [Buffer(x), Buffer(expected=np.array([control(int(v)) for v in x]), dtype=np.uint32), i32(n)]
    yield module.case("control", (3,), (128,), args, "a called function, an indexed stack, a switch, diverging loops")

    words = 15000
    x = rng.integers(-(2**28), 2**28, words, np.int32)
    table = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    scaled = (x * table[np.arange(words) % 8]).astype(np.int32)[::-1]
    args = [Buffer(x), Buffer(expected=np.append(scaled, 40), dtype=np.int32), i32(words)]
    yield module.case("memories", (1,), (256,), args, "constants, a module variable, 60,000 bytes of dynamic shared memory",
                      shared=4 * words)


def signed(value, bits):
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def integers(module, rng, n):
    x, y = rng.integers(0, 1 << 32, (2, n)).astype(np.uint32)
    x[:4], y[:4] = [0, 1, 0x80000000, 0xFFFFFFFF], [0, 0xFFFFFFFF, 31, 32]
    out, wide = [], []
    byte = lambda v, i: v >> (8 * i) & 0xFF
    for a, b in zip(x.tolist(), y.tolist()):
        dot = sum(signed(byte(a, i), 8) * signed(byte(b, i), 8) for i in range(4))
        out.append([
            bin(a).count("1"), 32 - a.bit_length(), int(f"{a:032b}"[::-1], 2),
            byte(a, 0) | byte(b, 0) << 8 | byte(a, 1) << 16 | byte(b, 1) << 24, a * b >> 32,
            ((b << 32 | a) << (b & 31)) >> 32 & 0xFFFFFFFF, (dot + 7) & 0xFFFFFFFF, abs(a - b) + 5,
            (a & -a).bit_length(), sum((byte(a, i) + byte(b, i) & 0xFF) << 8 * i for i in range(4)),
        ])
        p, q = signed(a << 20 ^ b, 64), signed(b, 32) | 1
        quotient = abs(p) // abs(q) * (1 if (p < 0) == (q < 0) else -1)
        wide.append([quotient, p - quotient * q, p * q >> 64, p >> (b & 63), p // (a | 1)])
    args = [Buffer(x), Buffer(y), Buffer(expected=np.array(out).T & 0xFFFFFFFF, dtype=np.uint32),
            Buffer(expected=np.array(wide).T, dtype=np.int64), i32(n)]
    return module.case("integers", (3,), (128,), args, "bit counts, permutes, dot products, 64-bit division")


def control(value):
    stack, v = [], value
    while v:
        stack.append(v % 7)
        v //= 7
    n, total = value % 1000 + 1, 0
    while n != 1:
        n = 3 * n + 1 if n % 2 else n // 2
        total += 1
    for digit in reversed(stack):
        if digit == 4 and total & 1:
            continue
        total = [total + 3, total * 5, total ^ 0x55, total << 3 | total >> 29, total + 9, total - 77, ~total][digit]
        total &= 0xFFFFFFFF
    return total


def all_cases():
    for group in (wmma, groups, cub, half, scalar, cutlass):
        yield from group()

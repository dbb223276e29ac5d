"""Cases from Triton's compiler."""

import math

import ml_dtypes
import numpy as np

import triton_kernels as kernels
from case import EPS, Buffer, Case

SCRATCH = [None, None]  # Triton's last two parameters: global and profile scratch


def make(name, function, types, constants, grid, args, about, aligned=(), **options):
    ptx, kernel, threads, shared = kernels.compile(function, types, constants, aligned, **options)
    capability = options.get("capability", 80)
    return Case(name, ptx, kernel, grid, (threads, 1, 1), args + SCRATCH, shared, capability, about)


def add(rng):
    n = 1000
    x, y = rng.standard_normal((2, n), np.float32)
    types = {"x": "*fp32", "y": "*fp32", "out": "*fp32", "n": "i32"}
    args = [Buffer(x), Buffer(y), Buffer(expected=x + y, dtype=np.float32), ("i32", n)]
    return make("triton_add", kernels.add, types, {"BLOCK": 256}, (4, 1, 1), args, "one f32 addition: exact",
                aligned=("x", "y", "out"))


def softmax(rng):
    rows, columns, stride = 5, 300, 304
    x = np.full((rows, stride), np.nan, np.float32)
    x[:, :columns] = 4 * rng.standard_normal((rows, columns))
    exact = x[:, :columns].astype(np.float64)
    below = exact.max(1, keepdims=True) - exact
    exps = np.exp(-below)
    share = exps / exps.sum(1, keepdims=True)
    # exp(-t) as ex2.approx(t log2 e): t, its product and log2 e are each rounded, and ex2 is off by 2 ulp; the sum of 512
    # takes 9 levels; div.full is off by 2 ulp.
    each = 3 * below + 4
    bound = (each + (share * each).sum(1, keepdims=True) + 9 + 4) * EPS * share * 1.001 + 2.0**-126
    expected = np.full((rows, stride), 7.0)
    expected[:, :columns] = share
    bounds = np.zeros((rows, stride))
    bounds[:, :columns] = bound
    types = {"x": "*fp32", "out": "*fp32", "columns": "i32", "stride": "i32"}
    out = Buffer(np.full((rows, stride), 7, np.float32), expected, bounds, np.float32)
    return make("triton_softmax", kernels.softmax, types, {"BLOCK": 512}, (rows, 1, 1),
                [Buffer(x), out, ("i32", columns), ("i32", stride)], "columns past 300 stay as they were",
                aligned=("x", "out", "stride"))


def layer_norm(rng):
    rows, columns, epsilon = 6, 200, 1e-5
    x = (rng.standard_normal((rows, columns)) + 0.5).astype(np.float16)
    weight, bias = rng.standard_normal((2, columns), np.float32)
    exact = x.astype(np.float64)
    mean = exact.mean(1, keepdims=True)
    centred = exact - mean
    variance = (centred**2).mean(1, keepdims=True)
    scale = 1 / np.sqrt(variance + np.float32(epsilon))
    product = centred * scale * weight
    # Sums of 256 take 8 levels, and the division 2 ulp.
    sums = 8 + 4
    mean_bound = sums * EPS * np.abs(exact).mean(1, keepdims=True)
    centred_bound = mean_bound + EPS * np.abs(centred)
    variance_bound = 2 * (np.abs(centred) * centred_bound).mean(1, keepdims=True) + (sums + 1) * EPS * variance
    # sqrt.approx is off by 2^-23, the division by 2 ulp, and epsilon's addition is rounded.
    scale_relative = variance_bound / (2 * (variance + epsilon)) + (2 + 4 + 1) * EPS
    bound = np.abs(weight) * scale * (centred_bound + np.abs(centred) * scale_relative)
    bound = 1.001 * bound + 3 * EPS * (np.abs(product) + np.abs(bias))
    types = {"x": "*fp16", "weight": "*fp32", "bias": "*fp32", "out": "*fp32", "mean_out": "*fp32", "columns": "i32",
             "epsilon": "fp32"}
    args = [Buffer(x), Buffer(weight), Buffer(bias), Buffer(expected=product + bias, bound=bound, dtype=np.float32),
            Buffer(expected=mean[:, 0], bound=1.001 * mean_bound[:, 0], dtype=np.float32), ("i32", columns),
            ("f32", epsilon)]
    return make("triton_layer_norm", kernels.layer_norm, types, {"BLOCK": 256}, (rows, 1, 1), args,
                "f16 in, f32 out; two reductions")


def cumsum(rng):
    rows, columns = 3, 500
    x = rng.integers(-1000, 1000, (rows, columns), np.int32)
    types = {"x": "*i32", "out": "*i32", "columns": "i32"}
    args = [Buffer(x), Buffer(expected=np.cumsum(x, 1), dtype=np.int32), ("i32", columns)]
    return make("triton_cumsum", kernels.cumsum, types, {"BLOCK": 512}, (rows, 1, 1), args, "a scan by shuffles")


def histogram(rng):
    n, bins = 3000, 16
    x = rng.integers(0, 1 << 20, n, np.int32)
    types = {"x": "*i32", "counts": "*i32", "n": "i32"}
    counts = Buffer(np.zeros(bins, np.int32), np.bincount(x % bins, minlength=bins), dtype=np.int32)
    return make("triton_histogram", kernels.histogram, types, {"BINS": bins, "BLOCK": 512}, (6, 1, 1),
                [Buffer(x), counts, ("i32", n)], "atomics on the same addresses from all blocks")


def sort_rows(rng):
    rows, columns = 3, 256
    x = rng.standard_normal((rows, columns), np.float32)
    types = {"x": "*fp32", "out": "*fp32"}
    return make("triton_sort", kernels.sort_rows, types, {"COLUMNS": columns}, (rows, 1, 1),
                [Buffer(x), Buffer(expected=np.sort(x, 1), dtype=np.float32)], "bitonic, across warps")


def argmax_rows(rng):
    rows, columns = 9, 333
    x = rng.standard_normal((rows, columns), np.float32)
    x[4, 77] = x[4, 200] = 9  # the first of equals
    types = {"x": "*fp32", "out": "*i32", "columns": "i32"}
    return make("triton_argmax", kernels.argmax_rows, types, {"BLOCK": 512}, (rows, 1, 1),
                [Buffer(x), Buffer(expected=np.argmax(x, 1), dtype=np.int32), ("i32", columns)], "value and index")


def gelu(rng):
    n = 700
    x = (3 * rng.standard_normal(n)).astype(ml_dtypes.bfloat16)
    exact = x.astype(np.float64)
    z = exact * math.sqrt(0.5)
    erf = np.array([math.erf(value) for value in z])
    # erff is off by 2 ulp; its argument by the rounding of the product and of sqrt(1/2); then 1 + and two products.
    slope = 2 / math.sqrt(math.pi) * np.exp(-z * z)
    bound = 0.5 * np.abs(exact) * (4 * EPS * np.abs(erf) + slope * np.abs(z) * 2 * EPS + 4 * EPS * (1 + erf))
    types = {"x": "*bf16", "out": "*fp32", "n": "i32"}
    out = Buffer(expected=0.5 * exact * (1 + erf), bound=1.001 * bound, dtype=np.float32)
    return make("triton_gelu", kernels.gelu, types, {"BLOCK": 256}, (3, 1, 1), [Buffer(x), out, ("i32", n)],
                "erff of NVIDIA's libdevice")


def to_tf32(x):
    """Rounded to 10 bits of mantissa (ties away from zero), so that what tf32 drops is zero."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x1000) & 0xFFFFE000).view(np.float32)


def matmul(rng, name, dtype, out_dtype, precision, shape, capability=80, **options):
    m, n, k = shape
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    kinds = {np.float16: "fp16", ml_dtypes.bfloat16: "bf16", np.float32: "fp32"}
    a, b = (to_tf32(x) if precision == "tf32" and dtype is np.float32 else x.astype(dtype) for x in (a, b))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    magnitude = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
    # Products of 11-bit mantissas are exact in f32; each of k + 1 additions may truncate (2^-23). With f32's own
    # products, a fused multiply-add rounds once.
    bound = (k + 1) * 2 * EPS * magnitude
    if out_dtype is not np.float32:
        bound = bound + np.abs(exact) * (2.0**-8 if out_dtype is ml_dtypes.bfloat16 else 2.0**-11) * 1.001
    types = {"a": f"*{kinds[dtype]}", "b": f"*{kinds[dtype]}", "c": f"*{kinds[out_dtype]}"}
    types |= {name: "i32" for name in ("m", "n", "k", "a_stride", "b_stride", "c_stride")}
    constants = {"BM": 64, "BN": 64, "BK": 32, "PRECISION": precision}
    args = [Buffer(a), Buffer(b), Buffer(expected=exact, bound=bound, dtype=out_dtype)]
    args += [("i32", value) for value in (m, n, k, k, n, n)]
    aligned = ("a", "b", "c", "k", "a_stride", "b_stride", "c_stride")
    grid = (-(-m // 64), -(-n // 64), 1)
    return make(name, kernels.matmul, types, constants, grid, args, f"{m}x{n}x{k} in tiles of 64x64x32", aligned,
                capability=capability, **options)


def all_cases():
    bf16, f16, f32 = ml_dtypes.bfloat16, np.float16, np.float32
    ragged = (80, 48, 112)
    rng = lambda seed: np.random.default_rng(seed)
    yield add(rng(1))
    yield softmax(rng(2))
    yield layer_norm(rng(3))
    yield cumsum(rng(4))
    yield histogram(rng(5))
    yield sort_rows(rng(6))
    yield argmax_rows(rng(7))
    yield gelu(rng(8))
    yield matmul(rng(9), "triton_matmul_f16", f16, f32, "tf32", ragged)
    yield matmul(rng(10), "triton_matmul_bf16", bf16, bf16, "tf32", ragged)
    yield matmul(rng(11), "triton_matmul_tf32", f32, f32, "tf32", ragged)
    yield matmul(rng(12), "triton_matmul_f32", f32, f32, "ieee", (64, 64, 48))
    yield matmul(rng(13), "triton_matmul_f16_sm75", f16, f16, "tf32", (64, 64, 64), capability=75)
    yield matmul(rng(14), "triton_matmul_f16_8warps", f16, f32, "tf32", (64, 64, 96), warps=8, stages=4)

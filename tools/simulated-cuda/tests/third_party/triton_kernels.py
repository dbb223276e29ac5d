"""Kernels that Triton compiles to PTX, which needs no GPU."""

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n), mask=i < n)


@triton.jit
def softmax(x, out, columns, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    j = tl.arange(0, BLOCK)
    values = tl.load(x + row * stride + j, mask=j < columns, other=-float("inf"))
    exps = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row * stride + j, exps / tl.sum(exps, axis=0), mask=j < columns)


@triton.jit
def layer_norm(x, weight, bias, out, mean_out, columns, epsilon, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    j = tl.arange(0, BLOCK)
    inside = j < columns
    values = tl.load(x + row * columns + j, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(values, axis=0) / columns
    centred = tl.where(inside, values - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, axis=0) / columns + epsilon)
    w = tl.load(weight + j, mask=inside)
    b = tl.load(bias + j, mask=inside)
    tl.store(out + row * columns + j, centred * scale * w + b, mask=inside)
    tl.store(mean_out + row, mean)


@triton.jit
def cumsum(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    j = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + j, mask=j < columns, other=0)
    tl.store(out + row * columns + j, tl.cumsum(values, axis=0), mask=j < columns)


@triton.jit
def histogram(x, counts, n, BINS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bins = tl.load(x + i, mask=i < n, other=0)
    tl.atomic_add(counts + bins % BINS, 1, mask=i < n)


@triton.jit
def sort_rows(x, out, COLUMNS: tl.constexpr):
    row = tl.program_id(0)
    j = tl.arange(0, COLUMNS)
    tl.store(out + row * COLUMNS + j, tl.sort(tl.load(x + row * COLUMNS + j)))


@triton.jit
def argmax_rows(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    j = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + j, mask=j < columns, other=-float("inf"))
    tl.store(out + row, tl.argmax(values, axis=0))


@triton.jit
def gelu(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + i, mask=i < n).to(tl.float32)
    tl.store(out + i, 0.5 * values * (1 + tl.erf(values * 0.7071067811865476)), mask=i < n)


@triton.jit
def matmul(
    a, b, c, m, n, k, a_stride, b_stride, c_stride,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, k, BK):
        d = start + depth
        left = tl.load(
            a + rows[:, None] * a_stride + d[None, :], mask=(rows[:, None] < m) & (d[None, :] < k), other=0.0
        )
        right = tl.load(
            b + d[:, None] * b_stride + columns[None, :], mask=(d[:, None] < k) & (columns[None, :] < n), other=0.0
        )
        sums = tl.dot(left, right, sums, input_precision=PRECISION)
    tl.store(
        c + rows[:, None] * c_stride + columns[None, :], sums.to(c.dtype.element_ty),
        mask=(rows[:, None] < m) & (columns[None, :] < n),
    )


def compile(function, types, constants, aligned=(), capability=80, warps=4, stages=3):
    """PTX, the kernel's name, threads of a block and bytes of dynamic shared memory."""
    names = function.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(function, signature, constants, attributes)
    options = {"num_warps": warps, "num_stages": stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return kernel.asm["ptx"], kernel.metadata.name, warps * 32, kernel.metadata.shared

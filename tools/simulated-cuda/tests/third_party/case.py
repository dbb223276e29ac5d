"""A kernel, its arguments, and what NumPy says that it computes, within a bound that follows from the arithmetic."""

import json
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

EPS = 2.0**-24  # half of the distance from 1 to the next f32: the relative error of one rounding to nearest

SCALARS = {"i32": np.int32, "u32": np.uint32, "i64": np.int64, "f32": np.float32, "f64": np.float64}
NAMES = {np.dtype(t): n for n, t in {
    "i8": np.int8, "u8": np.uint8, "i16": np.int16, "u16": np.uint16, "i32": np.int32, "u32": np.uint32,
    "i64": np.int64, "u64": np.uint64, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32,
    "f64": np.float64,
}.items()}


@dataclass
class Buffer:
    """Device memory: an array that is copied there, or (`expected`) where results appear, or both."""

    array: np.ndarray | None = None
    expected: np.ndarray | None = None
    bound: np.ndarray | float = 0.0
    dtype: object = None
    unordered: bool = False  # atomics decide where each element goes

    @property
    def bytes(self):
        return (self.array if self.array is not None else np.empty(self.expected.shape, self.dtype)).nbytes


@dataclass
class Case:
    name: str
    ptx: str
    kernel: str
    grid: tuple
    block: tuple
    args: list  # a Buffer, ("i32", value) and the like, or None for a null pointer
    shared: int = 0
    capability: int = 80
    about: str = ""
    module: str = ""  # the PTX file's name, where several cases share one
    sanitizer: bool = True  # whether it runs with it
    buffers: list = field(init=False)

    def __post_init__(self):
        self.buffers = [arg for arg in self.args if isinstance(arg, Buffer)]

    def save(self, folder):
        """The PTX, `name.json` and `name.bin`: inputs as they are; integers expected as they are, others as f64; bounds as f32, rounded up."""
        data, args = bytearray(), []
        for arg in self.args:
            if arg is None:
                args.append({"null": True})
            elif isinstance(arg, Buffer):
                entry = {"bytes": arg.bytes}
                if arg.array is not None:
                    entry["input"] = append(data, arg.array)
                if arg.expected is not None:
                    bound = np.broadcast_to(np.asarray(arg.bound, np.float64), arg.expected.shape)
                    bound = np.where(bound > 0, np.nextafter(bound.astype(np.float32), np.float32(np.inf)), 0)
                    wide = arg.dtype if np.issubdtype(arg.dtype, np.integer) else np.float64
                    entry |= {
                        "dtype": NAMES[np.dtype(arg.dtype)],
                        "count": arg.expected.size,
                        "expected": append(data, np.asarray(arg.expected, wide)),
                        "bound": append(data, bound.astype(np.float32)) if bound.any() else None,
                        "unordered": arg.unordered,
                    }
                args.append(entry)
            else:
                kind, value = arg
                args.append({"scalar": np.asarray(value, SCALARS[kind]).tobytes().hex()})
        module = f"{self.module or self.name}.ptx"
        text = {"about": self.about, "ptx": module, "kernel": self.kernel, "grid": self.grid, "block": self.block,
                "shared": self.shared, "capability": self.capability, "sanitizer": self.sanitizer, "args": args}
        (folder / module).write_text(self.ptx)
        (folder / f"{self.name}.json").write_text(json.dumps(text, indent=1) + "\n")
        (folder / f"{self.name}.bin").write_bytes(data)

    def compare(self, results):
        """The worst error in units of its bound (for a bound of 0: inf unless equal); `results` are `buffers`' contents."""
        worst = 0.0
        for buffer, got in zip(self.buffers, results):
            if buffer.expected is None:
                continue
            expected, bound = np.asarray(buffer.expected), np.asarray(buffer.bound, np.float64)
            if buffer.unordered:
                got, expected = np.sort(got, axis=None), np.sort(expected, axis=None)
            same = (got == expected) | ((got != got) & (expected != expected))
            with np.errstate(divide="ignore", invalid="ignore"):
                error = np.abs(got.astype(np.float64) - expected.astype(np.float64)) / bound
            error = np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))
            worst = max(worst, float(error.max(initial=0.0)))
        return worst


def append(data, array):
    """Puts an array at a multiple of 8 bytes and says where."""
    data += b"\0" * (-len(data) % 8)
    at = len(data)
    data += np.ascontiguousarray(array).tobytes()
    return at

#!/usr/bin/env python3
"""The least time that a forward pass can take on three GPUs, by their data sheets: an estimate, not a measurement.

Time is the largest of FLOPs ÷ peak and bytes ÷ bandwidth, each operand read once and y written once; W of more than a GPU's
last cache comes from memory, and launches cost nothing. The FLOPs of f32 run on FFMA, those of bf16 and tf32 on tensor cores
with f32 sums (no sparsity), and beside them the scaling of the accumulators by z, 2·N·I·K FLOPs, runs on FFMA. FFMA's
peak is taken times the share of FFMA in the kernel's inner loop (scripts/sass.py), the most that it can issue; the tensor
cores' is taken whole, since one of their instructions lasts many cycles.
"""

# TFLOP/s of FFMA, of bf16 and of tf32 with f32 sums, GB/s: NVIDIA's data sheets (A100 SXM 80 GB, H100 SXM, GeForce RTX 4090).
GPUS = {"A100": (19.5, 312, 156, 2039), "H100": (66.9, 989, 494, 3352), "RTX 4090": (82.6, 165.2, 82.6, 1008)}
# Share of FFMA in the inner loops of contract_f32_128x128x16 and contract_f32_16x128x32 (sm_80).
LARGE, FEW = 0.919, 0.850
SHAPES = [
    (1, 256, 256, 256),
    (32, 256, 256, 256),
    (256, 128, 128, 128),
    (512, 256, 256, 256),
    (4096, 32, 32, 32),
    (1024, 64, 512, 128),
    (2048, 400, 400, 1),
    (1024, 200, 200, 50),
    (128, 512, 512, 1024),
]


def least(shape, gpu, kind):
    n, i, j, k = shape
    ffma, bf16, tf32, bandwidth = GPUS[gpu]
    size = 2 if kind == "bf16" else 4
    memory = size * (k * i * j + n * (i + j + k)) / bandwidth / 1e9
    if kind == "f32":
        arithmetic = 2 * n * i * j * k / (ffma * 1e12 * (FEW if n <= 16 else LARGE))
    else:
        cores = {"bf16": bf16, "tf32": tf32}[kind]
        arithmetic = 2 * n * i * j * k / (cores * 1e12) + 2 * n * i * k / (ffma * 1e12)
    return max(memory, arithmetic), "memory" if memory > arithmetic else "arithmetic"


def main():
    columns = [(gpu, kind) for gpu in GPUS for kind in ("f32", "tf32", "bf16")]
    print("| N, I, J, K | " + " | ".join(f"{gpu} {kind}" for gpu, kind in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for shape in SHAPES:
        cells = []
        for gpu, kind in columns:
            seconds, bound = least(shape, gpu, kind)
            cells.append(f"{seconds * 1e6:.1f}{' m' if bound == 'memory' else ''}")
        print(f"| {', '.join(map(str, shape))} | " + " | ".join(cells) + " |")


main()

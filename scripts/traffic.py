#!/usr/bin/env python3
"""The bytes that the kernels' launches move, by the least that they must, and their bank conflicts: Markdown for docs/performance.md.

Runs `trilinear bench` (built with feature cli) on the simulated device, on shapes of which each result is one tile: so that what is
read more than once is the kernel's doing. More blocks than results are parts of a depth that is split.
"""

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What it is, the options, which launch of the call.
FORWARD, BACKWARD = ["--pass", "forward"], ["--pass", "backward", "--gradient"]
LAUNCHES = [
    *(
        (what, [*options, "--dtype", dtype], index)
        for dtype in ("f32", "f16", "bf16")
        for what, options, index in [
            ("y", ["--shape", "128,16,64,128", *FORWARD], 0),
            ("y", ["--shape", "128,4,256,128", *FORWARD], 0),
            ("dz", ["--shape", "128,128,64,16", *BACKWARD, "z"], 0),
            ("dx", ["--shape", "128,64,128,16", *BACKWARD, "x"], 0),
            ("dW", ["--shape", "512,16,128,8", *BACKWARD, "w"], 0),
        ]
    ),
    *(
        (what, [*options, "--tf32"], 0)
        for what, options in [
            ("y", ["--shape", "128,16,64,128", *FORWARD]),
            ("dz", ["--shape", "128,128,64,16", *BACKWARD, "z"]),
            ("dx", ["--shape", "128,64,128,16", *BACKWARD, "x"]),
            ("dW", ["--shape", "512,16,128,8", *BACKWARD, "w"]),
        ]
    ),
    *(
        (what, [*options, "--dtype", "f64"], 0)
        for what, options in [
            ("y", ["--shape", "64,8,64,64", *FORWARD]),
            ("dz", ["--shape", "64,64,64,8", *BACKWARD, "z"]),
            ("dx", ["--shape", "64,64,64,8", *BACKWARD, "x"]),
            ("dW", ["--shape", "256,8,64,8", *BACKWARD, "w"]),
        ]
    ),
    ("y on sm_75", ["--shape", "128,16,64,128", *FORWARD, "--dtype", "f16"], 0),
    ("dz on sm_75", ["--shape", "128,128,64,16", *BACKWARD, "z", "--dtype", "f16"], 0),
    ("y", ["--shape", "16,4,64,128", *FORWARD], 0),
    ("dz", ["--shape", "16,128,64,4", *BACKWARD, "z"], 0),
    ("y, split", ["--shape", "128,64,128,128", *FORWARD], 0),
    ("y, split", ["--shape", "128,64,128,128", *FORWARD, "--dtype", "bf16"], 0),
    ("y, split", ["--shape", "64,16,64,64", *FORWARD, "--dtype", "f64"], 0),
    ("y, split", ["--shape", "16,16,64,128", *FORWARD], 0),
    ("y, split", ["--shape", "16,64,128,128", *FORWARD], 0),
    ("y, split", ["--shape", "1,64,128,128", *FORWARD], 0),
    ("dW, split", ["--shape", "8192,16,128,8", *BACKWARD, "w"], 0),
    ("dW, split", ["--shape", "8192,16,128,8", *BACKWARD, "w", "--dtype", "bf16"], 0),
    # Fewer multiprocessors, which fewer parts fill.
    ("y, split, of 4 SMs", ["--shape", "128,64,128,128", *FORWARD], 0),
    ("y, split, of 2 SMs", ["--shape", "128,64,128,128", *FORWARD, "--dtype", "bf16"], 0),
    ("y, split, of 4 SMs", ["--shape", "64,128,64,64", *FORWARD, "--dtype", "f64"], 0),
    # A depth for which shared memory has no room.
    ("y, x does not stay", ["--shape", "64,4,128,64", *FORWARD, "--dtype", "f64"], 0),
    *(
        (what, ["--shape", f"{n},64,64,64,64", "--form", "cp", "--dtype", dtype, *options], index)
        for dtype, n in (("f32", 64), ("f16", 128), ("bf16", 128), ("f64", 32))
        for what, options, index in [
            ("H", FORWARD, 0),
            ("y = HAᵀ", FORWARD, 1),
            ("H, dP, dQ", [*BACKWARD, "all"], 0),
            ("H, dP, dQ of saved P, Q", [*BACKWARD, "all", "--saved"], 0),
            ("dP alone", [*BACKWARD, "z"], 0),
            ("dQ alone", [*BACKWARD, "x"], 0),
            ("H alone", [*BACKWARD, "a"], 0),
            ("dz, dx", [*BACKWARD, "all"], 1),
            ("dA, dB, dC", [*BACKWARD, "all"], 2),
        ]
    ),
]


def launch(driver, what, options, index):
    command = [ROOT / "target/release/trilinear", "bench", "--device", "cuda:0", "--json", *options]
    if "--form" not in options:
        command += ["--form", "dense"]
    device = {"CAPABILITY": "7.5" if what.endswith("sm_75") else "8.0"}
    if what.endswith(" SMs"):
        device["MULTIPROCESSORS"] = what.split()[-2]
    simulated = {f"SIMULATED_CUDA_{name}": value for name, value in device.items()}
    environment = {**os.environ, "LD_LIBRARY_PATH": driver, **simulated}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return json.loads(output)["launches"][index]


def conflicts(counts):
    sides = (counts["shared_loads"], counts["shared_stores"])
    beyond = sum(side["transactions"] - side["minimum"] for side in sides)
    return f"{100 * beyond / sum(side['minimum'] for side in sides):.1f}%" if beyond else "0"


def main():
    driver = subprocess.run([ROOT / "tools/simulated-cuda/build"], check=True, capture_output=True, text=True).stdout.strip()
    print("| blocks × kernel | result | N, I, J, K (, R) | ÷ least | read | written | conflicts, inner loop | all |")
    print("|---|---|---|---|---|---|---|---|")
    for what, options, index in LAUNCHES:
        counts = launch(driver, what, options, index)
        sectors = (32 * counts[side]["sectors"] for side in ("global_loads", "global_stores"))
        read, written = (b / counts[f"minimum_{side}_bytes"] for b, side in zip(sectors, ("read", "written")))
        shape = options[options.index("--shape") + 1].replace(",", ", ")
        ratios = [f"{ratio:.2f}" for ratio in (counts["ratio"], read, written)]
        cells = [f"{counts['blocks']} × {counts['kernel']}", what, shape, *ratios]
        print(f"| {' | '.join(cells)} | {counts['inner_conflicts']} | {conflicts(counts)} |")


main()

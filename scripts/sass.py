#!/usr/bin/env python3
"""Assembles every module in kernels/ptx for every architecture, with the newest ptxas and that of CUDA 12.0, fails on
errors and on spills, and prints a table of what the machine code takes and does.

    scripts/sass.py                    all; the table is that of the newest ptxas
    scripts/sass.py contract_f32 ...   these modules only

Occupancy is computed from registers, shared memory (with no operand resident) and threads. The share is that of
multiply-add instructions (HMMA where there are any, else FFMA and DFMA) among all of the inner loop: of the straight
piece of code that has most of them. Beside it its loads, by width in bits.
"""
import collections
import pathlib
import re
import subprocess
import sys
import tempfile

from cuda_toolchain import ROOT, tools

ARCHITECTURES = [75, 80, 86, 89, 90, 100, 120]
OLDEST = 90  # the newest that the ptxas of CUDA 12.0 knows
# Shared bytes an SM has, and threads: CUDA C++ Programming Guide, technical specifications by compute capability.
SHARED = {75: 64, 80: 164, 86: 100, 89: 100, 90: 228, 100: 228, 120: 100}
THREADS = {75: 1024, 80: 2048, 86: 1536, 89: 1536, 90: 2048, 100: 2048, 120: 1536}
INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*);")


def dynamic_bytes(kernel):
    """Shared memory that the launch gives, as in the headers of kernels/*.cuh, with no depth resident."""
    operation, kind, tile = kernel.removesuffix("_sm80").split("_")
    if operation == "rows" or operation.endswith("gate"):
        return 0
    bm, bn, bk = map(int, tile.split("x"))
    size = 8 if kind == "f64" else 4
    if kind == "tf32x2":
        return 2 * 3 * 8192
    if kind in ("f16", "bf16", "tf32"):
        if operation.endswith("hidden"):
            return (4 if kernel.endswith("_sm80") else 2) * (bm + bn) * 64
        if operation == "gram":
            return 2 * (2 if kind == "tf32" else 3) * 8192
        return (2 * 4 if kernel.endswith("_sm80") else 2 * 2) * 8192 + 2 * 8 * (bm + 4) * 4
    if operation == "contract":
        return 2 * (bm + bn) * bk * size + 2 * 8 * (bm + 16 // size) * size
    return 2 * (bm + bn) * bk * size


def assemble(ptxas, source, arch, cubin):
    """{kernel: (registers, spilled bytes, static shared bytes)}, and warnings of the assembler."""
    told = subprocess.run([ptxas, "-v", f"-arch=sm_{arch}", source, "-o", cubin], capture_output=True, text=True)
    if told.returncode:
        sys.exit(f"{source.name} for sm_{arch}: {told.stdout}{told.stderr}")
    kernels, name = {}, None
    for line in (told.stdout + told.stderr).splitlines():
        if match := re.search(r"entry function '(\w+)'", line):
            name = match[1]
            kernels[name] = [0, 0, 0]
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            kernels[name][1] = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            kernels[name][0] = int(match[1])
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[name][2] = int(shared[1]) if shared else 0
    return kernels


def densest(text):
    """{kernel: (share of multiply-adds, of all instructions, loads)} of the straight piece of code with most
    multiply-adds: what lies between labels and branches. For the general cores it is the body of the innermost loop."""
    found = {}
    for part in re.split(r"^\.text\.", text, flags=re.M)[1:]:
        blocks = [[]]
        for line in part.splitlines():
            if re.match(r"^\.L_\w+:", line):
                blocks.append([])
            elif instruction := INSTRUCTION.match(line):
                blocks[-1].append(instruction[2])
                if instruction[2].startswith(("BRA", "EXIT", "CALL", "RET")):
                    blocks.append([])
        multiply = "HMMA" if any(o.startswith("HMMA") for block in blocks for o in block) else ("FFMA", "DFMA")
        count = lambda block: sum(opcode.startswith(multiply) for opcode in block)
        opcodes = max(blocks, key=count)
        multiplies = count(opcodes)
        if multiplies:
            loads = collections.Counter()
            for opcode in opcodes:
                if match := re.match(r"^(LDSM|LDS|LDG|LDGSTS)\b(.*)", opcode):
                    width = re.search(r"\.(64|128)\b", match[2])
                    loads["LDSM" if match[1] == "LDSM" else f"{match[1]}.{width[1] if width else 32}"] += 1
            found[part[: part.index(":")]] = multiplies / len(opcodes), len(opcodes), loads
    return found


def occupancy(arch, registers, shared, threads):
    """Blocks of an SM, and its threads' share."""
    per_warp = (registers * 32 + 255) // 256 * 256
    blocks = min(65536 // (per_warp * threads // 32), THREADS[arch] // threads, 32)
    reserved = 0 if arch == 75 else 1024
    blocks = min(blocks, SHARED[arch] * 1024 // max(shared + reserved, 1))
    return blocks, blocks * threads / THREADS[arch]


def main():
    found = tools()
    sources = sorted((ROOT / "kernels" / "ptx").glob("*.ptx"))
    if sys.argv[1:]:
        sources = [source for source in sources if source.stem in sys.argv[1:]]
    spills = []
    columns = "kernel", "sm_", "registers", "spills", "shared bytes", "blocks, occupancy", "multiply-adds", "loads"
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    with tempfile.TemporaryDirectory() as folder:
        cubin = pathlib.Path(folder) / "cubin"
        for source in sources:
            text = source.read_text()
            floor = int(re.search(r"^\.target sm_(\d+)", text, re.M)[1])
            threads = dict(re.findall(r"\.entry (\w+)\(.*?\.maxntid (\d+)", text, re.S))
            for arch in [arch for arch in ARCHITECTURES if arch >= floor]:
                if arch <= OLDEST:
                    old = assemble(found["ptxas12"], source, arch, cubin)
                    spills += [f"{k} for sm_{arch}, ptxas 12.0: {v[1]} bytes" for k, v in old.items() if v[1]]
                kernels = assemble(found["ptxas"], source, arch, cubin)
                if not kernels:
                    continue
                told = subprocess.run([found["nvdisasm"], "-c", cubin], capture_output=True, text=True, check=True)
                inner_of = densest(told.stdout)
                for name, (registers, spilled, static) in kernels.items():
                    if spilled:
                        spills.append(f"{name} for sm_{arch}: {spilled} bytes")
                    shared = static + dynamic_bytes(name)
                    blocks, share = occupancy(arch, registers, shared, int(threads[name]))
                    inner = inner_of.get(name)
                    loop = f"{inner[0]:.1%} of {inner[1]}" if inner else ""
                    loads = ", ".join(f"{n} {kind}" for kind, n in sorted(inner[2].items())) if inner else ""
                    row = name, arch, registers, spilled, f"{shared:,}", f"{blocks}, {share:.0%}", loop, loads
                    print(f"| {' | '.join(map(str, row))} |", flush=True)
    if spills:
        sys.exit("spills: " + "; ".join(spills))


if __name__ == "__main__":
    main()

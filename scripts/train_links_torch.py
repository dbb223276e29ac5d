#!/usr/bin/env python3
"""The models of examples/train_links.rs in PyTorch: same data, batches, loss, optimiser, settings and evaluation.

    python3 scripts/train_links_torch.py [--data kinships] [--model cp] [--threads 2] [--epochs 10]

Needs `pip install torch numpy`. Each model is written in the fastest of the ways that were tried: RESCAL's W is kept as
[z, out, x], so that a head's layers are one matrix product (`F.bilinear` and `einsum` are slower), CP's queries are formed
by looking up rows rather than by one-hot products, only rows that have a triple are scored, and Adam is the fused one.
"""

import argparse
import pathlib
import statistics
import time

import torch
import torch.nn.functional as F

DATA = pathlib.Path(__file__).resolve().parent.parent / "examples" / "data"
# Those of examples/train_links.rs: rank, epochs, rate, decay, heads in a batch.
SETTINGS = {
    ("nations", "rescal"): (16, 60, 0.003, 4.0, 2),
    ("nations", "cp"): (32, 150, 0.005, 0.5, 2),
    ("kinships", "rescal"): (64, 40, 0.01, 2.0, 8),
    ("kinships", "cp"): (128, 80, 0.01, 0.7, 8),
    ("umls", "rescal"): (64, 40, 0.003, 0.5, 8),
    ("umls", "cp"): (128, 80, 0.006, 0.5, 8),
}


class Graph:
    """Each triple is there twice: (h, r, t), and (t, r + R, h)."""

    def __init__(self, name, folder):
        lines = (folder / f"{name}.tsv").read_text().splitlines()
        self.entities, relations = len(lines[0].split("\t")) - 1, len(lines[1].split("\t")) - 1
        self.relations = 2 * relations
        splits = {"train": [], "valid": [], "test": []}
        for line in lines[2:]:
            split, h, r, t = line.split("\t")
            splits[split] += [(int(h), int(r), int(t)), (int(t), int(r) + relations, int(h))]
        self.train, self.valid, self.test = (torch.tensor(splits[name]) for name in ("train", "valid", "test"))
        self.known = torch.zeros(self.entities, self.relations, self.entities, dtype=torch.bool)
        for split in (self.train, self.valid, self.test):
            self.known[tuple(split.T)] = True
        # The queries (h, r, ?) of the training triples by head, how often each tail answers them, and those of each head.
        counts = torch.zeros(self.known.shape)
        counts[tuple(self.train.T)] = 1.0
        self.heads, self.asked = counts.sum(2).nonzero().T
        self.targets = counts[self.heads, self.asked]
        self.of_head = torch.arange(len(self.heads)).split(torch.bincount(self.heads, minlength=self.entities).tolist())


def normal(shape, deviation, generator):
    return torch.nn.Parameter(torch.randn(*shape, generator=generator) * deviation)


class Rescal(torch.nn.Module):
    def __init__(self, graph, d, generator):
        super().__init__()
        self.entities = normal((graph.entities, d), d**-0.5, generator)
        self.w = normal((d, graph.relations * d), d**-0.5, generator)
        self.d = d

    def forward(self, heads, position, relation):
        generated = (F.embedding(heads, self.entities) @ self.w).view(-1, self.d)
        rows = F.embedding(position * (self.w.shape[1] // self.d) + relation, generated)
        return rows @ self.entities.T


class Cp(torch.nn.Module):
    def __init__(self, graph, rank, generator):
        super().__init__()
        lengths = (graph.entities, graph.entities, graph.relations)
        self.tails, self.heads, self.relations = (normal((n, rank), rank ** (-1 / 3), generator) for n in lengths)

    def forward(self, heads, position, relation):
        return (F.embedding(heads[position], self.heads) * F.embedding(relation, self.relations)) @ self.tails.T


def evaluate(model, graph, triples):
    """Filtered MRR and hits@10; an entity with the same score counts as half a rank."""
    with torch.no_grad():
        h, r, t = triples.T
        scores, known = model(torch.arange(graph.entities), h, r), graph.known[h, r]
        own = scores.gather(1, t[:, None])
        rank = 1 + ((scores > own) & ~known).sum(1) + ((scores == own) & ~known).sum(1) / 2
        return (1 / rank).mean().item(), (rank <= 10).float().mean().item()


def train(args, data, kind):
    graph = Graph(data, args.folder)
    rank, epochs, rate, decay, batch = SETTINGS[data, kind]
    generator = torch.Generator().manual_seed(args.seed)
    model = {"rescal": Rescal, "cp": Cp}[kind](graph, rank, generator)
    adam = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=True)
    seconds = []
    for _ in range(args.epochs or epochs):
        start, total = time.perf_counter(), 0.0
        for heads in torch.randperm(graph.entities, generator=generator).split(batch):
            queries = [graph.of_head[head] for head in heads.tolist()]
            position = torch.repeat_interleave(torch.tensor([len(rows) for rows in queries]))
            queries = torch.cat(queries)
            target = graph.targets[queries]
            scores = model(heads, position, graph.asked[queries])
            # Σ over the triples of -log softmax(scores)[tail], divided by their number.
            loss = F.cross_entropy(scores, target, reduction="sum")
            count = target.sum()
            adam.zero_grad()
            (loss / count).backward()
            adam.step()
            total += loss.item()
        seconds.append(time.perf_counter() - start)
    (mrr, hits), (valid_mrr, valid_hits) = evaluate(model, graph, graph.test), evaluate(model, graph, graph.valid)
    name = f"{kind}, rank {rank}, {len(seconds)} epochs"
    milliseconds = statistics.median(seconds) * 1e3
    print(f"{data:9} {name:32} {mrr:7.3f} {hits:7.3f}   {valid_mrr:9.3f} {valid_hits:7.3f}   {milliseconds:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", choices=["nations", "kinships", "umls"])
    parser.add_argument("--model", action="append", choices=["rescal", "cp"])
    parser.add_argument("--epochs", type=int, default=0, help="default: those of the example")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=pathlib.Path, default=DATA)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"PyTorch {torch.__version__}, {args.threads} thread(s)")
    print(f"{'':42} {'MRR':>7} {'hits@10':>7}   {'valid MRR':>9} {'hits@10':>7}   ms per epoch")
    for data in args.data or ["nations", "kinships", "umls"]:
        for kind in args.model or ["rescal", "cp"]:
            train(args, data, kind)


if __name__ == "__main__":
    main()

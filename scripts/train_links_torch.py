#!/usr/bin/env python3
"""The models of examples/train_links.rs in PyTorch: same data, batches, loss, optimiser and evaluation.

    python3 scripts/train_links_torch.py --data kinships --model rescal [--threads 1] [--epochs 100]

Needs `pip install torch numpy`. Weights are kept in whichever order is fastest for PyTorch, RESCAL's W as [z, out, x]: then
both models are plain matrix products, which beats `F.bilinear` and `einsum` here. --loss-rows says whether the scores of all
(head, relation) pairs of a batch are computed, as by the example, or those that have a triple only ("gather").
"""

import argparse
import pathlib
import statistics
import time

import torch
import torch.nn.functional as F

DATA = pathlib.Path(__file__).resolve().parent.parent / "examples" / "data"
# Must be those of examples/train_links.rs: rank, learning rate, decay of weights, heads in a batch.
SETTINGS = {
    ("nations", "rescal"): (16, 0.003, 0.3, 2),
    ("nations", "cp"): (32, 0.003, 0.3, 2),
    ("kinships", "rescal"): (64, 0.003, 0.3, 8),
    ("kinships", "cp"): (128, 0.003, 0.3, 8),
    ("umls", "rescal"): (64, 0.003, 0.3, 8),
    ("umls", "cp"): (128, 0.003, 0.3, 8),
}


class Graph:
    def __init__(self, name, folder):
        lines = (folder / f"{name}.tsv").read_text().splitlines()
        self.entities, self.relations = len(lines[0].split("\t")) - 1, len(lines[1].split("\t")) - 1
        splits = {"train": [], "valid": [], "test": []}
        for line in lines[2:]:
            split, h, r, t = line.split("\t")
            splits[split].append((int(h), int(r), int(t)))
        # Each triple twice: (h, r, t), and (t, r⁻¹, h) with the relation r + R.
        both = {name: [q for h, r, t in split for q in ((h, r, t), (t, r + self.relations, h))] for name, split in splits.items()}
        self.train, self.valid, self.test = (torch.tensor(both[name]) for name in ("train", "valid", "test"))
        self.outputs = 2 * self.relations
        self.known = torch.zeros(self.entities, self.outputs, self.entities, dtype=torch.bool)
        for split in (self.train, self.valid, self.test):
            self.known[split[:, 0], split[:, 1], split[:, 2]] = True


class Model(torch.nn.Module):
    """scores(heads) [G·K, E]: of every relation and tail for these heads."""

    def __init__(self, kind, graph, rank, generator):
        super().__init__()
        e, k = graph.entities, graph.outputs
        normal = lambda *shape, std: torch.nn.Parameter(torch.randn(*shape, generator=generator) * std)
        self.kind, self.k, self.rank = kind, k, rank
        if kind == "rescal":
            self.entities = normal(e, rank, std=rank**-0.5)
            self.w = normal(rank, k * rank, std=rank**-0.5)
        else:
            self.a, self.b, self.c = (normal(n, rank, std=rank ** (-1 / 3)) for n in (k, e, e))

    def queries(self, heads):
        if self.kind == "rescal":
            return (self.entities[heads] @ self.w).view(-1, self.rank)
        return (self.b[heads].unsqueeze(1) * self.a).view(-1, self.rank)

    def tails(self):
        return self.entities if self.kind == "rescal" else self.c


def evaluate(model, graph, triples):
    """Filtered MRR and hits@10; a tie counts as half a rank."""
    with torch.no_grad():
        scores = (model.queries(torch.arange(graph.entities)) @ model.tails().T).view(graph.entities, graph.outputs, -1)
        h, r, t = triples.T
        row, known = scores[h, r], graph.known[h, r]
        own = row.gather(1, t[:, None])
        above = ((row > own) & ~known).sum(1)
        level = ((row == own) & ~known).sum(1)
        rank = 1 + above + level / 2
        return (1 / rank).mean().item(), (rank <= 10).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["nations", "kinships", "umls"], default="nations")
    parser.add_argument("--model", choices=["rescal", "cp"], default="rescal")
    parser.add_argument("--folder", type=pathlib.Path, default=DATA)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--decay", type=float)
    parser.add_argument("--heads", type=int)
    parser.add_argument("--every", type=int, default=0, help="evaluate on the validation triples every so many epochs")
    parser.add_argument("--loss-rows", choices=["all", "gather"], default="all")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = SETTINGS[args.data, args.model]
    given = (args.rank, args.rate, args.decay, args.heads)
    rank, rate, decay, batch = (s if g is None else g for g, s in zip(given, settings))

    graph = Graph(args.data, args.folder)
    generator = torch.Generator().manual_seed(args.seed)
    model = Model(args.model, graph, rank, generator)
    adam = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=True)
    e, k = graph.entities, graph.outputs
    counts = torch.zeros(e, k, e)
    counts[graph.train[:, 0], graph.train[:, 1], graph.train[:, 2]] = 1.0
    per_query = counts.sum(2)

    seconds = []
    for epoch in range(1, args.epochs + 1):
        start, total = time.perf_counter(), 0.0
        for heads in torch.randperm(e, generator=generator).split(batch):
            queries = model.queries(heads)
            target, weight = counts[heads].view(-1, e), per_query[heads].view(-1)
            if args.loss_rows == "gather":
                rows = weight.nonzero().squeeze(1)
                queries, target, weight = queries[rows], target[rows], weight[rows]
            # Σ over the triples of -log softmax(scores)[tail], divided by their number.
            scores = queries @ model.tails().T
            loss = (scores.logsumexp(1) @ weight - (scores * target).sum()) / weight.sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.item() * weight.sum().item()
        seconds.append(time.perf_counter() - start)
        if args.every and epoch % args.every == 0:
            valid = evaluate(model, graph, graph.valid)
            print(f"epoch {epoch}: loss {total / len(graph.train):.4f}, valid MRR {valid[0]:.3f}, hits@10 {valid[1]:.3f}")
    (mrr, hits), (valid_mrr, valid_hits) = evaluate(model, graph, graph.test), evaluate(model, graph, graph.valid)
    print(
        f"{args.data} {args.model} torch {torch.__version__.split('+')[0]}, {args.threads} threads: "
        f"test MRR {mrr:.3f} hits@10 {hits:.3f} (valid {valid_mrr:.3f} {valid_hits:.3f}), "
        f"{statistics.median(seconds) * 1e3:.2f} ms per epoch (median of {len(seconds)})"
    )


if __name__ == "__main__":
    main()

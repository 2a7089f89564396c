"""What one process, or each of several that torchrun started, computes with the torch backend.

    torchrun --nproc-per-node 2 together.py FOLDER

Each writes what it found to a file of its own, PROCESSES-INDEX.pt.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from lavcap_core.backends import fsdp
from lavcap_core.backends.torch import TorchBackend
from lavcap_core.errors import LavcapError
from lavcap_core.tuning import keep_eval

WIDTH = 16
ROWS = 9  # no even number for two


class Net(nn.Module):
    """With parts that no row, or only the last one, reaches."""

    def __init__(self, coarse=torch.float32):
        super().__init__()
        self.first = nn.Linear(4, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.last = nn.Linear(WIDTH, 1)
        self.rare = nn.Linear(4, 1)
        self.never = nn.Linear(4, 1)
        self.coarse = nn.Parameter(torch.ones(WIDTH, dtype=coarse))

    def forward(self, rows, numbers):
        out = self.last(self.frozen(self.norm(self.first(rows)) * self.coarse.float())).squeeze(1)
        chosen = numbers == ROWS - 1
        return out + self.rare(rows[chosen]).sum() * chosen if chosen.any() else out


class Block(nn.Module):
    """A frozen matrix in half precision, and a low-rank update of it."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH).bfloat16().requires_grad_(False)
        self.down = nn.Linear(WIDTH, 3, bias=False)  # 3 rows can't be halved
        self.up = nn.Linear(3, WIDTH, bias=False)

    def forward(self, x):
        return x + self.base(x.bfloat16()).float().tanh() + self.up(self.down(x))


class Stack(nn.Module):
    """A decoder: words outside the blocks, which are a list."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(8, WIDTH).bfloat16().requires_grad_(False)
        self.layers = nn.ModuleList([Block() for _ in range(3)])
        self.head = nn.Linear(WIDTH, 8, bias=False)
        keep_eval(self.words)

    def forward(self, x, numbers):
        x = x + self.words(numbers % 8).float()
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, WIDTH)
        self.decoder = Stack()

    def forward(self, rows, numbers):
        return self.decoder(self.encoder(rows), numbers).square().mean(1)


def data():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(ROWS, 4, generator=generator), torch.arange(ROWS)


def shares(backend):
    """Two batches of this process's rows."""
    rows, numbers = data()
    part = torch.arange(ROWS).tensor_split(backend.processes)[backend.index]
    return [(rows[half], numbers[half]) for half in part.tensor_split(2)]


def start(make, kind, seed, **options):
    backend = make(**options)
    backend.launch()
    # Whatever a process drew, all go on with what the first has.
    torch.manual_seed(seed + backend.index)
    model = backend.wrap(kind())
    named = list(model.named_parameters())
    trained = [p for _, p in named if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.1, "lr": 0.05},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0, "lr": 0.05},
    ]
    return backend, model.train(), backend.optimiser(groups, (0.9, 0.999))


def steps(backend, model, optimiser, count, clip=0.1, factor=1.0):
    found = []
    for _ in range(count):
        loss = torch.zeros(())
        for rows, numbers in shares(backend):
            with backend.autocast():
                part = model(rows, numbers).float().square().sum() / ROWS * factor
            backend.backward(part)
            loss += part.detach()
        norm = backend.gradients(model, clip)
        gradients = {n: fsdp.whole(p.grad) for n, p in model.named_parameters() if p.grad is not None}
        backend.step(optimiser)
        found.append({"loss": backend.sum(loss).item(), "norm": float(norm), "gradients": gradients})
    return found


def alike(make):
    """Several steps with gradients of several batches, clipped."""
    backend, model, optimiser = start(make, Net, 1)
    found = steps(backend, model, optimiser, 5)
    sums = backend.sum(torch.tensor([backend.index + 1, 10]))
    joined = backend.gather([f"{backend.index}.{i}" for i in range(2 + backend.index)])
    backend.barrier()
    state = backend.optimiser_state(model, optimiser)
    return {"steps": found, "trained": backend.trained(model), "sums": sums, "joined": joined, "state": state}


def precise(make, dtype):
    """Mixed precision; the second round's gradients overflow where there is a scale."""
    backend, model, optimiser = start(make, lambda: Net(torch.bfloat16), 1, dtype=dtype)
    first = steps(backend, model, optimiser, 3, factor=0.1)
    before = backend.trained(model)
    wild = steps(backend, model, optimiser, 1, factor=1e6 if backend.scaled else 1.0)
    after = backend.trained(model)
    scale = backend.optimiser_state(model, optimiser)["scaler"].get("scale")
    last = steps(backend, model, optimiser, 3, factor=0.1)
    kept = all(torch.equal(before[name], after[name]) for name in before)
    return {"first": first, "wild": wild, "kept": kept, "scale": scale, "last": last, "trained": backend.trained(model)}


def statistics(make):
    """BatchNorm sees other rows on each process."""
    backend, model, optimiser = start(make, lambda: Normal(), 2)
    steps(backend, model, optimiser, 2)
    return {name: values.clone() for name, values in model.named_buffers()}


class Normal(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4, momentum=0.5)
        self.frozen = keep_eval(nn.BatchNorm1d(4))
        self.last = nn.Linear(4, 1)
        self.register_buffer("flag", torch.tensor([True]))

    def forward(self, rows, numbers):
        return self.last(self.frozen(self.norm(rows))).squeeze(1)


def spread(make, dtype="float32"):
    """Training of a model in shards, interrupted after two of four steps."""
    fsdp.LARGE = 100  # the words and the head are spread too
    backend, model, optimiser = start(make, Whole, 3, shard=True, dtype=dtype)
    found = steps(backend, model, optimiser, 2)
    kept = {"trained": backend.trained(model), "state": backend.optimiser_state(model, optimiser)}
    sizes = {
        name: (p.to_local() if fsdp.is_sharded(p) else p).numel() / p.numel() for name, p in model.named_parameters()
    }
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    more = steps(backend, model, optimiser, 2)
    with torch.inference_mode():
        model.eval()
        out = model.decoder(torch.ones(2, WIDTH), torch.arange(2))
    trained = backend.trained(model)
    return {"steps": found + more, "kept": kept, "trained": trained, "sizes": sizes, "kinds": kinds, "out": out}


def resumed(make, kept, shard):
    """What `spread` does after its interruption, from what process 0 kept."""
    backend, model, optimiser = start(make, Whole, 3, shard=shard)
    backend.load_trained(model, kept["trained"])
    backend.load_optimiser(model, optimiser, kept["state"])
    return {"steps": steps(backend, model, optimiser, 2), "trained": backend.trained(model)}


def refused(make):
    """What can't be spread."""
    codes = []
    mixed = Whole()
    mixed.decoder.layers[1].base.requires_grad_(True)
    for model in (nn.Linear(2, 2), mixed):
        backend = make(shard=True)
        backend.launch()
        try:
            backend.wrap(model)
        except LavcapError as error:
            codes.append(error.code)
    return codes


def make(**options):
    return TorchBackend("cpu", **options)


def torchrun(*arguments, processes=2, env=None, **options):
    """Starts processes that find each other at a free port."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, *arguments]
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        timeout=300,
        **options,
    )


def main():
    folder = Path(sys.argv[1])
    backend = make()
    backend.launch()
    found = {"alike": alike(make), "statistics": statistics(make), "refused": refused(make)}
    found |= {dtype: precise(make, dtype) for dtype in ("float16", "bfloat16")}
    found["spread"] = spread(make)
    found["spread16"] = spread(make, "float16")
    for name, shard in (("resumed", True), ("copied", False)):
        found[name] = resumed(make, torch.load(folder / "1-0.pt", weights_only=True), shard)
    torch.save(found, folder / f"{backend.processes}-{backend.index}.pt")


if __name__ == "__main__":
    main()

"""A lean trainer: a tiny omni-modal model through the stages of a lake, on one process or on many.

    torchrun --nproc-per-node 2 examples/train/train.py lake --model vita-1.5 --stages 1.1 1.2 1.3 2.1 2.2 3.1 3.2

It makes no data decision of its own. What comes when, in which words, with which labels and pictures, and which
modules learn: all of it stands in the manifests. What is left for a trainer is this page:

    for each stage ──▶ for each global batch ──▶ loss of this rank's slice ──▶ one sum of gradients over all ranks
                                 │                                                         │
                     Prefetcher: decoded, pinned,                         every k steps: model, optimizer, state of
                     copied while the model works                         the stream and account, in one atomic file

Kill it whenever you like and start it again on any number of ranks: it goes on with the contexts that would have come
next. `tarsia audit LAKE --run OUT/run.jsonl` says whether it was handed what the manifests promised.

The model is `model.py`, as small as it can be. For one that should speak, put another in its place.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson
import torch
import torch.distributed as dist
from model import Model
from torch import nn

from tarsia.manifests.account import Account
from tarsia.manifests.collate import Collated
from tarsia.manifests.dataset import CollatedDataset, Prefetcher
from tarsia.manifests.stream import load_manifest
from tarsia.schemas.errors import TarsiaError, UserError
from tarsia.schemas.recipe import Context


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains the stages one after the other, from where the folder `--out` says that the run stands."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("lake", help="folder or bucket")
    options.add_argument("--model", required=True, help="whose stages, such as vita-1.5")
    options.add_argument("--stages", required=True, nargs="+", help="in the order of the curriculum")
    options.add_argument("--out", type=Path, default=Path("run"), help="folder for checkpoint and logs")
    options.add_argument("--batch", type=int, default=4, help="contexts of a global batch, over all ranks")
    options.add_argument("--epochs", type=int, default=1, help="how often each stage is gone through")
    options.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    options.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    options.add_argument("--threads", type=int, default=2, help="that decode, in each process")
    options.add_argument("--seed", type=int, default=0, help="of the model's first weights")
    run = options.parse_args(arguments)
    device = join()
    try:
        todo = [one for stage in run.stages for one in passes(run, stage)]
        names = [name for name, _, _ in todo]
        torch.manual_seed(run.seed)
        model, kept = Model().to(device), None
        run.out.mkdir(parents=True, exist_ok=True)
        if (run.out / "checkpoint.pt").exists():
            kept = torch.load(run.out / "checkpoint.pt", map_location=device, weights_only=True)
            if kept["pass"] not in names:
                raise UserError(f"{run.out} holds a run that stands in stage {kept['pass']}: name it among --stages")
            model.load_state_dict(kept["model"])
        for name, stage, step in todo[names.index(kept["pass"]) if kept else 0 :]:
            train(model, name, stage, step, run, device, kept)
            kept = None
    finally:
        dist.destroy_process_group()


def passes(run: argparse.Namespace, stage: str) -> list[tuple[str, str, str | None]]:
    """What a stage consists of: itself, or its steps, each of which goes through all of it. Name, stage and step."""
    steps = load_manifest(run.lake, f"{run.model}/{stage}").stage.steps
    return [(stage + step, stage, step) for step in steps] or [(stage, stage, None)]


def train(
    model: Model,
    name: str,
    stage: str,
    step: str | None,
    run: argparse.Namespace,
    device: torch.device,
    kept: dict[str, Any] | None,
) -> None:
    """One pass, from its beginning or from a checkpoint in it; at the end of a pass nothing is left to do."""
    data = CollatedDataset(
        run.lake, f"{run.model}/{stage}", step=step, batch=run.batch, epochs=run.epochs, threads=run.threads
    )
    manifest, rank = data.stream.manifest, dist.get_rank()
    asked = manifest.stage.steps[step] if step else manifest.stage
    account = Account(data.stream)
    learning = model.learn(asked.train)
    optimizer = torch.optim.AdamW(learning, lr=run.rate, weight_decay=0)
    if kept:
        data.load_state_dict(kept["stream"])
        optimizer.load_state_dict(kept["optimizer"])
        if rank == 0:  # the others begin at nothing: accounts of all ranks are added up when they are saved
            account.load_state_dict(kept["account"])
    log = run.out / f"run{'-' + step if step else ''}.jsonl"  # steps go through the same contexts: each has its own
    number, batches = kept["number"] if kept else 0, Prefetcher(data, device)
    began, losses, state = perf_counter(), list[float](), data.state_dict()
    with (run.out / f"steps-{rank}.jsonl").open("ab") as steps:
        for batch in batches:
            loss = update(model, learning, optimizer, batch, manifest.context)
            number, state = number + 1, batch.state
            account.add(batch)
            losses.append(loss)
            line = {"pass": name, "epoch": batch.handed.step.epoch, "begin": batch.handed.step.begin, "loss": loss}
            steps.write(orjson.dumps({**line, "keys": batch.keys}, option=orjson.OPT_APPEND_NEWLINE))
            steps.flush()
            if number % run.every == 0:
                save(log, model, optimizer, account, number=number, stream=state, **{"pass": name})
    save(log, model, optimizer, account, number=number, stream=state, **{"pass": name})
    if rank == 0 and losses:
        seconds, some = perf_counter() - began, max(1, len(losses) // 4)
        first, last = (sum(part) / some for part in (losses[:some], losses[-some:]))
        waited = f"{batches.waited / seconds:.0%} of {seconds:.1f} s waiting for data"
        print(f"{run.model}/{name:8} {len(losses):5} steps, loss {first:8.4f} to {last:8.4f}, {waited}", flush=True)


def update(
    model: Model, learning: list[nn.Parameter], optimizer: torch.optim.Optimizer, batch: Collated, settings: Context
) -> float:
    """One step. The loss is the mean over what the *global* batch learns, however it is cut into slices.

    Each rank sums its losses; sums, counts and gradients are added over the ranks and divided at the end. So one rank
    and eight make the same step, and a slice may be empty. The loss is read at once, which waits for the device: from
    here on until the next batch comes, a GPU has nothing to do.
    """
    optimizer.zero_grad()
    total, count = model(batch, settings) if batch.contexts else (torch.zeros(()), 0)
    if total.requires_grad:
        total.backward()
    device = learning[0].device
    grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in learning]
    sums = torch.cat([*(grad.flatten() for grad in grads), torch.tensor([total.item(), count], device=device)])
    dist.all_reduce(sums)
    shares = (sums[:-2] / sums[-1].clamp(min=1)).split([one.numel() for one in learning])
    for one, share in zip(learning, shares, strict=True):
        one.grad = share.view_as(one)
    optimizer.step()
    return float(sums[-2] / sums[-1].clamp(min=1))


def save(log: Path, model: nn.Module, optimizer: torch.optim.Optimizer, account: Account, **place: Any) -> None:
    """Everything that the run is, in one file that is there as a whole or not at all.

    The log comes first: what it says too much after a kill between the two is corrected by the resumed run's next line,
    for the last line of a stage is the one that counts.
    """
    accounts = [account] * dist.get_world_size()
    dist.gather_object(account, accounts if dist.get_rank() == 0 else None)
    if dist.get_rank() == 0:
        together = reduce(add, accounts)
        together.log(str(log), place["number"])
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "account": together.state_dict()}
        with (log.parent / "checkpoint.part").open("wb") as file:
            torch.save({**states, **place}, file)
            file.flush()
            os.fsync(file.fileno())
        (log.parent / "checkpoint.part").replace(log.parent / "checkpoint.pt")


def join() -> torch.device:
    """Joins the processes that torchrun started, or is the only one; the device of this one."""
    alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    if not torch.cuda.is_available():
        dist.init_process_group("gloo", **alone)
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl", **alone)
    return torch.device("cuda", torch.cuda.current_device())


if __name__ == "__main__":
    try:
        main()
    except TarsiaError as error:
        sys.exit(f"error: {error}")

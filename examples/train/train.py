"""A lean trainer: a tiny omni-modal model through the stages of a lake, on one process or on many.

    torchrun --nproc-per-node 2 examples/train/train.py lake --model vita-1.5 --stages 1.1 1.2 1.3 2.1 2.2 3.1 3.2

It makes no data decision of its own: what comes when, in which words, with which labels and pictures, and which modules
learn, all of it stands in the manifests. Batches are decoded and copied while the model works; each rank takes its
slice, and one sum of gradients over all ranks makes the step. Every k steps model, optimizer, state of the stream and
account are kept together: kill the run whenever you like and start it again on any number of ranks, and it goes on with
the contexts that would have come next. `tarsia audit LAKE --run OUT/run.jsonl` says whether it was handed what the
manifests promised.

`Model` is a stand-in with the modules that recipes name and the shapes of a real one; put yours in its place:

    squares ──vision_encoder──▶ 256 vectors each ──vision_adapter──┐
    features ─audio_encoder──▶ 25 a second ──audio_adapter──▶ 12.5 ┼──▶ llm ──▶ next words, and those after (mctp)
    ids ───────────────────────────────────────────── its table ───┘       └──▶ state_head: is it said to me?
    waves ──codec──▶ 40 codes a second ◀── ar_decoder ◀── nar_decoder ◀── what is to be said
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson
import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before a group is joined: later it would hold on to it, and abort the exit
from torch import Tensor, nn
from torch.nn import functional

from tarsia.manifests.account import Account
from tarsia.manifests.collate import Collated
from tarsia.manifests.dataset import CollatedDataset, Prefetcher, normalised
from tarsia.manifests.stream import load_manifest
from tarsia.manifests.tensors import IGNORED
from tarsia.manifests.utterances import BEGIN, CODES, END, FILL
from tarsia.schemas.errors import TarsiaError, UserError
from tarsia.schemas.recipe import Context

WIDTH = 64  # of every vector
WORDS = 4093  # ids are taken modulo this prime: the commonest words, which have the lowest ids, keep rows of their own
GUIDES = 25  # trainable tokens before speech, as many as VITA-1.5 has
FRAME = 600  # samples at 24 kHz that become one code

causal = nn.Transformer.generate_square_subsequent_mask  # (L, L): a token attends to those before it


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
    run = options.parse_args(arguments)
    device = join()
    try:
        torch.manual_seed(0)
        model, kept = Model().to(device), None
        steps = {stage: load_manifest(run.lake, f"{run.model}/{stage}").stage.steps or [""] for stage in run.stages}
        passes = [(stage, step) for stage in run.stages for step in steps[stage]]  # each goes through all of its stage
        run.out.mkdir(parents=True, exist_ok=True)
        if (run.out / "checkpoint.pt").exists():
            kept = torch.load(run.out / "checkpoint.pt", map_location="cpu", weights_only=True)
            if kept["pass"] not in passes:
                raise UserError(f"{run.out} holds a run in stage {''.join(kept['pass'])}: name it among --stages")
            model.load_state_dict(kept["model"])
        for stage, step in passes[passes.index(kept["pass"]) if kept else 0 :]:
            train(model, stage, step, run, kept)
            kept = None
    finally:
        dist.destroy_process_group()


def train(model: "Model", stage: str, step: str, run: argparse.Namespace, kept: dict[str, Any] | None) -> None:
    """One pass through a stage, from its beginning or from a checkpoint in it; of one that is done nothing is left."""
    name = f"{run.model}/{stage}"
    data = CollatedDataset(run.lake, name, step=step or None, batch=run.batch, epochs=run.epochs, threads=2)
    manifest, rank, account = data.stream.manifest, dist.get_rank(), Account(data.stream)
    learning = model.learn((manifest.stage.steps[step] if step else manifest.stage).train)
    optimizer, device = torch.optim.Adam(learning, lr=run.rate), learning[0].device
    place: dict[str, Any] = {"pass": (stage, step), "number": 0, "losses": {}, "stream": data.state_dict()}
    if kept:
        place = {key: kept[key] for key in place}
        data.load_state_dict(kept["stream"])
        optimizer.load_state_dict(kept["optimizer"])
        if rank == 0:  # the others begin at nothing: accounts of all ranks are added up when they are saved
            account.load_state_dict(kept["account"])
    log = run.out / f"run{'-' + step if step else ''}.jsonl"  # steps go through the same contexts: each has its own
    batches, losses, done, began = Prefetcher(data, device), place["losses"], place["number"], perf_counter()
    with (run.out / f"steps-{rank}.jsonl").open("ab") as lines:
        for batch in batches:
            total, count = update(model, optimizer, batch, manifest.context)
            account.add(batch)
            place["number"], place["stream"], epoch = place["number"] + 1, batch.state, batch.handed.step.epoch
            sums = losses.get(epoch, (0, 0))  # of all that an epoch learns, to compare epochs of the same contexts
            losses[epoch] = (sums[0] + total, sums[1] + count)
            line = {"pass": stage + step, "epoch": epoch, "begin": batch.handed.step.begin, "keys": batch.keys}
            line |= {"loss": total / max(1, count), "learnt": count}
            lines.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            lines.flush()
            if place["number"] % run.every == 0:
                save(log, model, optimizer, account, place)
    save(log, model, optimizer, account, place)
    spent = torch.tensor([perf_counter() - began, batches.waited], device=device)
    dist.all_reduce(spent, dist.ReduceOp.MAX)  # where one rank has no data, all wait
    if rank == 0 and place["number"] > done:
        means = " ".join(f"{total / max(1, count):.4f}" for total, count in losses.values())
        waited = f"{spent[1] / spent[0]:.0%} of {spent[0]:.1f} s waiting for data"
        print(f"{name + step:14} {place['number']:5} steps, {waited}, loss by epoch {means}", flush=True)


def update(model: "Model", optimizer: torch.optim.Optimizer, batch: Collated, settings: Context) -> tuple[float, float]:
    """One step: the sum of the losses of the *global* batch, and of how many, however it is cut into slices.

    Each rank sums its losses; sums, counts and gradients are added over the ranks and divided at the end. So one rank
    and eight make the same step, and a slice may be empty.
    """
    optimizer.zero_grad()
    learning = optimizer.param_groups[0]["params"]
    total, count = model(batch, settings) if batch.contexts else learning[0].new_zeros(2)
    (total + 0 * sum(one.sum() for one in learning)).backward()  # so that all have a gradient, also of nothing
    sums = torch.cat([*(one.grad.flatten() for one in learning), total.detach()[None], count[None]])
    dist.all_reduce(sums)
    *shares, total, count = sums.split([*(one.numel() for one in learning), 1, 1])
    for one, share in zip(learning, shares, strict=True):
        one.grad = (share / count.clamp(min=1)).view_as(one)
    optimizer.step()
    return total.item(), count.item()


def save(log: Path, model: "Model", optimizer: torch.optim.Optimizer, account: Account, place: dict[str, Any]) -> None:
    """Everything that the run is, in one file that is there as a whole or not at all.

    Before it a line of the log: a kill between the two leaves it ahead, until the resumed run writes the next.
    """
    accounts = [account] * dist.get_world_size()
    dist.gather_object(account, accounts if dist.get_rank() == 0 else None)
    if dist.get_rank() == 0:
        together = sum(accounts[1:], accounts[0])
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
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **alone)
    return device


class Model(nn.Module):
    """Eyes, ears, a decoder of words, and decoders of speech. Losses are sums, told with how many they are sums of."""

    def __init__(self) -> None:
        super().__init__()
        eyes = nn.Conv2d(3, WIDTH // 4, 14, 14), nn.GELU(), nn.PixelUnshuffle(2), nn.Flatten(2)  # as InternViT merges
        ears = nn.Conv1d(80, WIDTH, 3, 2), nn.GELU(), nn.Conv1d(WIDTH, WIDTH, 3, 2), nn.GELU()  # a vector every 40 ms
        back = nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(WIDTH, WIDTH, 3, 2)  # halves; padding at the end stays out
        self.vision_encoder, self.vision_adapter = nn.Sequential(*eyes), adapter()
        self.audio_encoder = nn.ModuleDict({"even": nn.LayerNorm(80), "ears": nn.Sequential(*ears)})
        self.audio_encoder["words"] = nn.Linear(WIDTH, WORDS + 1)  # for CTC, whose last class is none
        self.audio_adapter, self.guide_tokens = adapter(*back), nn.Embedding(GUIDES, WIDTH)
        layers = nn.TransformerEncoder(layer(), 2, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.llm = nn.ModuleDict({"table": nn.Embedding(WORDS, WIDTH), "layers": layers})
        self.mctp, self.state_head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2, bias=False)
        listen, book, speak = nn.Linear(FRAME, WIDTH), nn.Embedding(CODES, WIDTH), nn.Linear(WIDTH, FRAME)
        self.codec = nn.ModuleDict({"listen": listen, "book": book, "speak": speak})
        speaker = layer(nn.TransformerDecoderLayer)
        self.nar_decoder = layer()
        self.ar_decoder = nn.ModuleDict({"table": nn.Embedding(FILL, WIDTH), "layer": speaker})
        for table in (self.guide_tokens, self.llm["table"], self.ar_decoder["table"]):
            nn.init.normal_(table.weight, std=0.02)

    def learn(self, names: Sequence[str]) -> list[nn.Parameter]:
        """Freezes everything but these modules; what is left to learn."""
        if unknown := [name for name in names if name not in self._modules]:
            raise UserError(f"the stage trains {', '.join(unknown)}; this model has {', '.join(self._modules)}")
        for name, module in self.named_children():
            module.requires_grad_(name in names)
        return [one for one in self.parameters() if one.requires_grad]

    def forward(self, batch: Collated, settings: Context) -> tuple[Tensor, Tensor]:
        """Conversations; speech and its words; words to be said and their speech; speech alone: by its arrays."""
        if "ids" in batch.arrays:
            return self.chat(batch, settings)
        if "words" in batch.arrays:
            return self.hear(batch)
        return self.say(batch) if "x" in batch.arrays else self.compress(batch)

    def chat(self, batch: Collated, settings: Context) -> tuple[Tensor, Tensor]:
        """Conversations: the next token, where it is learnt, and the class of a heard question."""
        ids, labels, states, guides = batch["ids"], batch["labels"], batch["states"], batch["guides_at"]
        x = self.llm["table"](ids % WORDS).flatten(0, 1)
        if len(batch["squares"]):
            x = put(x, batch["squares_at"], self.vision_adapter(self.vision_encoder(normalised(batch["squares"]))))
        if len(batch["features"]):
            lens, tokens = (frames(batch["features_lens"]) + 1) // 2, batch["features_tokens"]
            assert torch.equal(lens, tokens), "speech is not as long as it was planned"
            x = put(x, batch["features_at"], self.audio_adapter(self.encoded(batch)), tokens)
        if len(guides):
            x = put(x, guides, self.guide_tokens.weight[: settings.guide].T.expand(len(guides), -1, -1))
        apart = settings.positions == "reset"
        mask = segments(batch) if apart else causal(ids.shape[1], device=ids.device)
        x = x.unflatten(0, ids.shape) + sines(batch["positions"])
        hidden = self.llm["layers"](x, mask, is_causal=not apart)
        words, classes = self.llm["table"].weight, self.state_head.weight
        losses = [wrong(hidden[:, :-1], words, labels[:, 1:]), wrong(hidden, classes, states)]
        if self.mctp.weight.requires_grad:
            losses.append(wrong(self.mctp(hidden[:, :-2]), words, labels[:, 2:]))
        return sum(loss for loss, _ in losses), sum(count for _, count in losses)

    def encoded(self, batch: Collated) -> Tensor:
        """(A, F, 80) features to (A, WIDTH, `frames(F)`)."""
        return self.audio_encoder["ears"](self.audio_encoder["even"](batch["features"]).transpose(1, 2))

    def hear(self, batch: Collated) -> tuple[Tensor, Tensor]:
        """Transcripts: CTC, one class every 40 ms."""
        said = self.audio_encoder["words"](self.encoded(batch).permute(2, 0, 1)).log_softmax(-1)
        words, lens = batch["words"].clamp(min=0) % WORDS, (frames(batch["features_lens"]), batch["words_lens"])
        loss = functional.ctc_loss(said, words, *lens, blank=WORDS, reduction="sum", zero_infinity=True)
        return loss, batch["words_lens"].sum()

    def compress(self, batch: Collated) -> tuple[Tensor, Tensor]:
        """Speech alone: how far it is from what becomes of it, and what is heard in it from its code."""
        sound, heard, codes = self.coded(batch["waves"])
        meant = self.codec["book"](codes)
        spoken = self.codec["speak"](heard + (meant - heard).detach())  # the gradient goes straight through
        inside = torch.arange(codes.shape[1], device=codes.device) * FRAME < batch["waves_lens"][:, None]
        pairs = ((spoken, sound), (meant, heard.detach()), (heard, meant.detach()))
        return torch.stack([(one - other)[inside].square().mean(-1).sum() for one, other in pairs]).sum(), inside.sum()

    def coded(self, waves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(A, N) samples as frames of (A, ⌈N/600⌉, 600), what is heard in each, and the code that is next to it."""
        sound = functional.pad(waves, (0, -waves.shape[1] % FRAME)).unflatten(1, (-1, FRAME))
        heard = self.codec["listen"](sound)
        return sound, heard, torch.cdist(heard, self.codec["book"].weight).argmin(-1)

    def say(self, batch: Collated) -> tuple[Tensor, Tensor]:
        """Text and its speech: the next code, given all of the text and the codes before; after the last one END."""
        text = self.llm["table"](functional.pad(batch["x"], (1, 0)) % WORDS)  # a place in front, were nothing said
        place = torch.arange(text.shape[1], device=text.device)
        pads = place > batch["x_lens"][:, None]
        text = self.nar_decoder(text + sines(place), src_key_padding_mask=pads)
        codes, lens = self.coded(batch["waves"])[2], -(batch["waves_lens"] // -FRAME)[:, None]
        place = torch.arange(codes.shape[1] + 1, device=text.device)
        due = functional.pad(codes, (0, 1)).where(place < lens, IGNORED).where(place != lens, END)
        given = self.ar_decoder["table"](functional.pad(codes, (1, 0), value=BEGIN)) + sines(place)
        mask = causal(len(place), device=text.device)
        hidden = self.ar_decoder["layer"](given, text, mask, memory_key_padding_mask=pads, tgt_is_causal=True)
        return wrong(hidden, self.ar_decoder["table"].weight, due)


def layer(kind: type[nn.Module] = nn.TransformerEncoderLayer) -> nn.Module:
    """One head of attention, then two linear maps."""
    return kind(WIDTH, 1, 4 * WIDTH, 0.0, functional.gelu, batch_first=True, norm_first=True)


def adapter(*before: nn.Module) -> nn.Module:
    """From an encoder's vectors to the language model's, (n, WIDTH, m) both."""
    return nn.Sequential(*before, nn.Conv1d(WIDTH, WIDTH, 1), nn.GELU(), nn.Conv1d(WIDTH, WIDTH, 1))


def put(x: Tensor, begins: Tensor, vectors: Tensor, lens: Tensor | None = None) -> Tensor:
    """(N, WIDTH) with n runs of vectors, (n, WIDTH, m), or the first `lens` of each, from where each begins."""
    place = torch.arange(vectors.shape[2], device=x.device)
    inside = place < (torch.full_like(begins, len(place)) if lens is None else lens)[:, None]
    return x.index_put(((begins[:, None] + place)[inside],), vectors.transpose(1, 2)[inside])


def frames(lens: Tensor) -> Tensor:
    """What two convolutions of size 3 and stride 2 leave of so many frames: VITA's `[2::2][2::2]`."""
    return ((lens - 1) // 2 - 1) // 2


def sines(positions: Tensor) -> Tensor:
    """Positions of (…) as vectors of (…, WIDTH), as small as those of words."""
    angles = positions[..., None] * 10_000 ** -torch.linspace(0, 1, WIDTH // 2, device=positions.device)
    return 0.02 * torch.cat([angles.sin(), angles.cos()], -1)


def wrong(hidden: Tensor, names: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How badly vectors of (…, WIDTH) are told by names of (n, WIDTH). Only what is learnt becomes logits."""
    learnt = labels != IGNORED
    logits = functional.linear(hidden[learnt], names)
    return functional.cross_entropy(logits, labels[learnt] % len(names), reduction="sum"), learnt.sum()


def segments(batch: Collated) -> Tensor:
    """(B, L, L), true where a token must not look: what comes later, and other segments. For positions that reset."""
    place = torch.arange(batch["ids"].numel(), device=batch["ids"].device, dtype=torch.int32)
    number = torch.searchsorted(batch["cu_seqlens"], place, right=True).view(batch["ids"].shape)
    return ~(number[:, :, None] == number[:, None, :]).tril()


if __name__ == "__main__":
    try:
        main()
    except TarsiaError as error:
        sys.exit(f"error: {error}")

"""A tiny omni-modal model with the shapes of a real one: its modules have the names that recipes call them by.

    squares ──vision_encoder──▶ 256 vectors each ──vision_adapter──┐
    features ─audio_encoder──▶ 25 a second ──audio_adapter──▶ 12.5 ┼──▶ llm ──▶ next words; state_head ──▶ classes
    ids ───────────────────────────────────────────── llm.table ───┘
    waves ──codec──▶ 40 codes a second ◀── ar_decoder ◀── nar_decoder ◀── llm.table ◀── what is to be said

The vocabulary is Qwen2.5's, folded: ids are taken modulo 4,093, so that the commonest words, which have the lowest ids,
keep rows of their own and the table stays small. Losses are sums, with how many they are sums of: the trainer divides
once it knows those of all ranks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tarsia.manifests.collate import Collated
from tarsia.manifests.dataset import normalised
from tarsia.manifests.tensors import IGNORED
from tarsia.manifests.utterances import BEGIN, CODES, END, FILL
from tarsia.schemas.errors import UserError
from tarsia.schemas.recipe import Context

WIDTH, WORDS = 64, 4093  # of every vector; rows of the folded vocabulary, a prime
GUIDES = 25  # of VITA's trainable guide tokens
FRAME = 600  # samples at 24 kHz that become one code


class Model(nn.Module):
    """Eyes, ears, a decoder of words, and decoders of speech."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_encoder, self.vision_adapter = Patches(), adapter()
        self.audio_encoder, self.audio_adapter = Ears(), Halves()
        self.guide_tokens, self.state_head = nn.Embedding(GUIDES, WIDTH), nn.Linear(WIDTH, 2)
        nn.init.normal_(self.guide_tokens.weight, std=0.02)
        self.llm = Words()
        self.codec, self.nar_decoder, self.ar_decoder = Codec(), Reader(), Speaker()

    def learn(self, names: Sequence[str]) -> list[nn.Parameter]:
        """Freezes everything but these modules; what is left to learn."""
        modules = dict(self.named_children())
        if unknown := [name for name in names if name not in modules]:
            raise UserError(f"the stage trains {', '.join(unknown)}; this model has {', '.join(modules)}")
        for name, module in modules.items():
            module.requires_grad_(name in names)
        return [one for one in self.parameters() if one.requires_grad]

    def forward(self, batch: Collated, settings: Context) -> tuple[Tensor, int]:
        """The sum of a batch's losses and of how many, by what it consists of.

        That is conversations, speech and its words, speech alone, or words to be said and their speech.
        """
        if "ids" in batch.arrays:
            return self.chat(batch, settings)
        if "words" in batch.arrays:
            return self.hear(batch)
        return self.speak(batch) if "x" in batch.arrays else self.codec(batch["waves"], batch["waves_lens"])

    def chat(self, batch: Collated, settings: Context) -> tuple[Tensor, int]:
        """Conversations: the next token, where it is learnt, and the class of a heard question."""
        mask = segments(batch) if settings.positions == "reset" else None
        ids, labels, states = batch["ids"], batch["labels"], batch["states"]
        x = self.llm.table(ids % WORDS).flatten(0, 1)
        if len(batch["squares"]):
            seen = self.vision_adapter(self.vision_encoder(normalised(batch["squares"])))
            places = batch["squares_at"][:, None] + torch.arange(seen.shape[1], device=x.device)
            x = x.index_put((places.flatten(),), seen.flatten(0, 1))
        if len(batch["features"]):
            heard, tokens = self.audio_adapter(self.audio_encoder(batch["features"])), batch["features_tokens"]
            assert torch.equal(tokens, (frames_of(batch["features_lens"]) + 1) // 2), "not as long as it was planned"
            inside = torch.arange(heard.shape[1], device=x.device)
            places = (batch["features_at"][:, None] + inside)[inside < tokens[:, None]]
            x = x.index_put((places,), heard[inside < tokens[:, None]])
        if len(guides := batch["guides_at"]):
            places = guides[:, None] + torch.arange(settings.guide, device=x.device)
            x = x.index_put((places.flatten(),), self.guide_tokens.weight[: settings.guide].repeat(len(guides), 1))
        hidden = self.llm(x.unflatten(0, ids.shape), batch["positions"], mask)
        learnt, classed = labels[:, 1:] != IGNORED, states != IGNORED
        words = functional.linear(hidden[:, :-1][learnt], self.llm.table.weight)
        loss = functional.cross_entropy(words, labels[:, 1:][learnt] % WORDS, reduction="sum")
        loss = loss + functional.cross_entropy(self.state_head(hidden[classed]), states[classed], reduction="sum")
        return loss, int(learnt.sum() + classed.sum())

    def hear(self, batch: Collated) -> tuple[Tensor, int]:
        """Transcripts: CTC, one class every 40 ms."""
        said = self.audio_encoder.words(self.audio_encoder(batch["features"])).log_softmax(-1)
        frames, words = frames_of(batch["features_lens"]), batch["words"].clamp(min=0) % WORDS
        loss = functional.ctc_loss(
            said.transpose(0, 1), words, frames, batch["words_lens"], WORDS, reduction="sum", zero_infinity=True
        )
        return loss, int(batch["words_lens"].sum())

    def speak(self, batch: Collated) -> tuple[Tensor, int]:
        """Text and its speech: the next code, given the text and the codes before."""
        codes, lens = self.codec.codes(batch["waves"]), -(batch["waves_lens"] // -FRAME)
        text, text_lens = self.llm.table(batch["x"] % WORDS), 4 * batch["x_lens"]
        return self.ar_decoder(self.nar_decoder(text, text_lens), text_lens, codes, lens)


def segments(batch: Collated) -> Tensor:
    """(B, 1, L, L): a token attends to those before it in its own segment. For positions that begin anew."""
    place = torch.arange(batch["ids"].numel(), device=batch["ids"].device, dtype=torch.int32)
    number = torch.searchsorted(batch["cu_seqlens"], place, right=True).view(batch["ids"].shape)
    return (number[:, None, :, None] == number[:, None, None, :]).tril()


class Layer(nn.Module):
    """Attention with rotary positions, then two linear maps. Without a mask it is causal."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.before, self.between = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.answer = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, width) to the same."""
        q, k, v = self.ask(self.before(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = turned(q, positions), turned(k, positions)
        seen = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        x = x + self.answer(seen.transpose(1, 2).flatten(2))
        return x + self.think(self.between(x))


def turned(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding of (B, heads, L, size) at positions (B, L)."""
    rates = 10_000 ** -torch.linspace(0, 1, x.shape[-1] // 2, device=x.device)
    angles = positions[:, None, :, None] * rates
    left, right = x.chunk(2, -1)
    return torch.cat([left * angles.cos() - right * angles.sin(), left * angles.sin() + right * angles.cos()], -1)


class Words(nn.Module):
    """The language model: a table that embeds and names words, and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(WORDS, WIDTH), nn.LayerNorm(WIDTH)
        nn.init.normal_(self.table.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(WIDTH) for _ in range(2))

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, WIDTH) to the same."""
        for layer in self.layers:
            x = layer(x, positions, mask)
        return self.last(x)


def adapter() -> nn.Module:
    """From an encoder's vectors to the language model's."""
    return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))


class Patches(nn.Module):
    """The eyes: 32 × 32 patches of 14 pixels, of which 2 × 2 become one of 256 vectors, as in InternViT."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH // 4, 14, 14)

    def forward(self, squares: Tensor) -> Tensor:
        """(n, 3, 448, 448) to (n, 256, WIDTH)."""
        return functional.pixel_unshuffle(functional.gelu(self.patch(squares)), 2).flatten(2).transpose(1, 2)


class Ears(nn.Module):
    """The encoder of speech: a vector every 40 ms, and the words that CTC finds in them (the last class is none)."""

    def __init__(self) -> None:
        super().__init__()
        self.even = nn.LayerNorm(80)
        self.halve = nn.Sequential(nn.Conv1d(80, WIDTH, 3, 2), nn.GELU(), nn.Conv1d(WIDTH, WIDTH, 3, 2), nn.GELU())
        self.words = nn.Linear(WIDTH, WORDS + 1)

    def forward(self, features: Tensor) -> Tensor:
        """(A, F, 80) to (A, `frames_of(F)`, WIDTH)."""
        return self.halve(self.even(features).transpose(1, 2)).transpose(1, 2)


def frames_of(lens: Tensor) -> Tensor:
    """What two convolutions of size 3 and stride 2 leave of so many frames: VITA's `[2::2][2::2]`."""
    return ((lens - 1) // 2 - 1) // 2


class Halves(nn.Module):
    """The adapter of speech: of every two vectors one (`[0::2]`). It looks back, so that padding stays out."""

    def __init__(self) -> None:
        super().__init__()
        self.halve, self.adapt = nn.Conv1d(WIDTH, WIDTH, 3, 2), adapter()

    def forward(self, frames: Tensor) -> Tensor:
        """(A, n, WIDTH) to (A, ⌈n/2⌉, WIDTH)."""
        return self.adapt(self.halve(functional.pad(frames.transpose(1, 2), (2, 0))).transpose(1, 2))


class Codec(nn.Module):
    """Speech at 24 kHz as one of 1,024 codes every 25 ms, and back: a codebook learnt straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.listen, self.book, self.speak = nn.Linear(FRAME, 64), nn.Embedding(CODES, 64), nn.Linear(64, FRAME)

    def codes(self, waves: Tensor) -> Tensor:
        """(A, N) to ids of (A, ⌈N/600⌉)."""
        return torch.cdist(self.listen(framed(waves)), self.book.weight).argmin(-1)

    def forward(self, waves: Tensor, lens: Tensor) -> tuple[Tensor, int]:
        """How far speech is from what becomes of it, and what is heard from its code; and the number of frames."""
        frames, codes = framed(waves), self.codes(waves)
        heard, meant = self.listen(frames), self.book(codes)
        spoken = self.speak(heard + (meant - heard).detach())
        inside = torch.arange(codes.shape[1], device=codes.device) * FRAME < lens[:, None]
        pairs = ((spoken, frames), (meant, heard.detach()), (heard, meant.detach()))
        wrong = [(one - other)[inside].square().mean(-1).sum() for one, other in pairs]
        return sum(wrong[1:], wrong[0]), int(inside.sum())


def framed(waves: Tensor) -> Tensor:
    """(A, N) to (A, ⌈N/600⌉, 600)."""
    return functional.pad(waves, (0, -waves.shape[1] % FRAME)).unflatten(1, (-1, FRAME))


class Reader(nn.Module):
    """The decoder that sees all of the text at once. Each vector of the language model is four of its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Layer(WIDTH // 4)

    def forward(self, text: Tensor, lens: Tensor) -> Tensor:
        """(A, W, WIDTH) to (A, 4 W, WIDTH / 4)."""
        x = text.unflatten(2, (4, -1)).flatten(1, 2)
        place = torch.arange(x.shape[1], device=x.device)
        return self.layer(x, place.expand(len(x), -1), (place < lens[:, None])[:, None, None])


class Speaker(nn.Module):
    """The decoder that goes from code to code."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(FILL + 1, WIDTH // 4), Layer(WIDTH // 4)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, text: Tensor, text_lens: Tensor, codes: Tensor, lens: Tensor) -> tuple[Tensor, int]:
        """(A, T, WIDTH / 4) and codes (A, C): BEGIN leads to the first code, the last to END."""
        place = torch.arange(codes.shape[1] + 1, device=codes.device)
        due = functional.pad(codes, (0, 1)).where(place < lens[:, None], FILL).where(place != lens[:, None], END)
        given = functional.pad(codes, (1, 0), value=BEGIN)
        before = torch.arange(text.shape[1], device=codes.device)
        positions = torch.cat([before.expand(len(codes), -1), text_lens[:, None] + place], 1)
        known = torch.cat([before < text_lens[:, None], (place >= 0).expand(len(codes), -1)], 1)
        itself = torch.eye(known.shape[1], dtype=torch.bool, device=codes.device)
        x = torch.cat([text, self.table(given)], 1)
        x = self.layer(x, positions, (known[:, None, None] & torch.ones_like(itself).tril()) | itself)
        logits = functional.linear(x[:, text.shape[1] :], self.table.weight).flatten(0, 1)
        loss = functional.cross_entropy(logits, due.flatten(), ignore_index=FILL, reduction="sum")
        return loss, int((due != FILL).sum())

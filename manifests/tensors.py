"""The second level of the stream: a context as the arrays that a model trains on. numpy alone; torch is the trainer's.

    context ──write──▶ ids, labels, positions, where each medium stands       (a tokenizer, and headers of media)
            ──load───▶ squares of pixels, features of speech                  (what takes the time; releases the GIL)

Ids are those that the planner counted, each medium as long as it was counted, so that a context of `n` tokens becomes
arrays of `n`: exactly, or `Corrupt`. Where media stand, ids hold the filler (the pad token: a row that every embedding
table has); a model embeds all ids and writes the encoders' outputs over the fillers. docs/tensors.md lists every array.

Labels are VITA's: of every answer its state, its words and its end are learnt, everything else is `IGNORED`. What
other families do otherwise (states, system prompts, positions) the recipe says.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tarsia.builders.chat import Control, Medium, Piece, as_met, ids_of, pieces, prompt_of, state_after, system
from tarsia.builders.fbank import Features
from tarsia.builders.pixels import Squares
from tarsia.builders.tokens import Tokenizer
from tarsia.manifests.costs import words_of
from tarsia.manifests.seen import Broken, Seen, clip_of, media_of
from tarsia.manifests.stream import Context, Streamed
from tarsia.schemas import recipe
from tarsia.schemas.errors import Corrupt, UserError
from tarsia.schemas.sample import Kind

IGNORED = -100  # of labels and states: nothing is learnt here
PAD = "<|endoftext|>"  # fills batches up, and stands where media stand
KINDS = (Medium.IMAGE, Medium.VIDEO, Medium.AUDIO)  # by their number in Chat.spans
QUERY, NOISE = 0, 1  # classes of the state head: speech to be answered, speech that is not meant for the model

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Chat:
    """One context: `n` tokens, `s` samples, `m` media in the order in which they stand."""

    number: int
    keys: tuple[str, ...]
    ids: Ints  # (n,)
    labels: Ints  # (n,)
    positions: Ints  # (n,)
    states: Ints  # (n,) classes of the state head
    cu_seqlens: NDArray[np.int32]  # (segments + 1,) a segment attends to nothing but itself
    bounds: Ints  # (s + 1,) sample i is [bounds[i], bounds[i + 1])
    spans: Ints  # (m, 4) kind, number of its first square or of its features, begin, end
    guides: Ints  # (g,) where the guide tokens of each sample with sound begin
    squares: tuple[Squares, ...]  # of each image and video
    features: tuple[Features, ...]  # of each audio
    broken: tuple[Broken, ...]


def chat(context: Context, settings: recipe.Context) -> Chat:
    """The arrays of a context, under the settings that its manifest carries.

    A medium that cannot be decoded is told in `broken`: grey squares or silence stand for it, and its sample keeps its
    place and teaches nothing. Raises `Corrupt` where the length is not the manifest's, and `UserError` where sound is
    codes that stand in the text (`audio: glm4voice`): no arrays are made of those.
    """
    if settings.audio != "vita":
        raise UserError(
            f"audio: {settings.audio} writes sound as codes, of which no arrays are made; read the contexts"
        )
    page = _Page(settings)
    if settings.prompt == "context":
        page.write(system(context.prompt))
    for part in context.samples:
        page.sample(part)
    page.bounds.append(len(page.ids))
    if len(page.ids) != context.tokens:
        raise Corrupt(
            f"context {context.number} has {len(page.ids)} tokens, its manifest says {context.tokens}: "
            "another version planned it; plan the stage again"
        )
    decoded = [(medium.kind, *medium.decoded()) for medium, _, _ in page.media]
    broken = [fault for _, _, fault in decoded if fault]
    lost = {fault.key for fault in broken}
    labels, states = np.array(page.labels, np.int64), np.array(page.states, np.int64)
    for (begin, end), part in zip(pairwise(page.bounds), context.samples, strict=True):
        if part.sample.key in lost:
            labels[begin:end] = states[begin:end] = IGNORED
    ends = [0, *page.bounds[1:]] if settings.positions == "reset" else [0, len(page.ids)]
    return Chat(
        number=context.number,
        keys=tuple(part.sample.key for part in context.samples),
        ids=np.array(page.ids, np.int64),
        labels=labels,
        positions=np.concatenate([np.arange(end - begin) for begin, end in pairwise(ends)]),
        states=states,
        cu_seqlens=np.array(ends, np.int32),
        bounds=np.array(page.bounds, np.int64),
        spans=_spans(page.media),
        guides=np.array(page.guides, np.int64),
        squares=tuple(array for kind, array, _ in decoded if kind is not Medium.AUDIO),
        features=tuple(array for kind, array, _ in decoded if kind is Medium.AUDIO),
        broken=tuple(broken),
    )


class _Stands(NamedTuple):
    """A medium and the ids that it fills."""

    medium: Seen
    begin: int
    end: int


class _Page:
    """A context as it is written, token by token."""

    def __init__(self, settings: recipe.Context) -> None:
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.states: list[int] = []
        self.bounds: list[int] = []
        self.media: list[_Stands] = []
        self.guides: list[int] = []
        self._guide = 0  # tokens that are due before the next sound
        self._settings, self._words = settings, words_of(settings)
        self._opening = sum(len(ids_of(self._words, piece)) for piece in ("\n", Control.START, "assistant\n"))

    def sample(self, part: Streamed) -> None:
        """Writes one conversation, its heard questions as speech."""
        sample, settings, state = part.sample, self._settings, ""
        noise, own = sample.kind is Kind.NOISE, media_of(part, settings)
        question, asked = -1, 0
        self.bounds.append(len(self.ids))
        self._guide = settings.guide
        if settings.prompt == "sample":
            self.write(system(prompt_of([sample.modality])))
        for turn in as_met(sample.conversations, sample.kind, sample.language, settings):
            if turn.speaker == "gpt":
                if settings.states == "labels":
                    self._classify(asked, NOISE if noise else QUERY)
                self.write(_placed(pieces(turn, spoken=False, state=state), own), given=self._opening)
                continue
            question, asked = question + 1, len(self.media)
            clip = clip_of(part, question, settings) if question in part.asked else None
            self.write(_placed(pieces(turn, spoken=clip is not None, state=""), own, clip))
            state = state_after(turn, spoken=clip is not None, noise=noise, states=settings.states)

    def write(self, rendered: Sequence[Piece | Seen], *, given: int = sys.maxsize) -> None:
        """Writes pieces, of which all is learnt but the first `given` tokens and what media there are."""
        for piece in rendered:
            if isinstance(piece, Seen) and piece.kind is Medium.AUDIO and piece.tokens and self._guide:
                self._lead()
            begin = len(self.ids)
            ids = self._ids(piece)
            self.ids += ids
            if isinstance(piece, Seen):
                self.media.append(_Stands(piece, begin, len(self.ids)))
            silent = len(ids) if isinstance(piece, Seen) else min(given, len(ids))
            self.labels += [IGNORED] * silent + ids[silent:]
            self.states += [IGNORED] * len(ids)
            given = max(0, given - silent)

    def _lead(self) -> None:
        """Writes fillers where the guide tokens go."""
        self.guides.append(len(self.ids))
        self.ids += [filler(self._words)] * self._guide
        self.labels += [IGNORED] * self._guide
        self.states += [IGNORED] * self._guide
        self._guide = 0

    def _ids(self, piece: Piece | Seen) -> list[int]:
        if isinstance(piece, Seen):
            return [filler(self._words)] * piece.tokens
        return ids_of(self._words, piece)

    def _classify(self, asked: int, state: int) -> None:
        """Puts a class at the last position of the last audio of a question, whose media begin with number `asked`."""
        ends = [end for medium, _, end in self.media[asked:] if medium.kind is Medium.AUDIO]
        if ends:
            self.states[ends[-1] - 1] = state


def filler(words: Tokenizer) -> int:
    """The id that stands where media stand; of a vocabulary without a pad token, the first of what spells it."""
    return words.control(PAD)[0]


def _placed(
    rendered: Sequence[Piece], own: dict[Medium, Iterator[Seen]], clip: Seen | None = None
) -> list[Piece | Seen]:
    """Pieces, each medium as the next of its kind; the one audio of a question that is heard is its clip."""
    return [
        piece if not isinstance(piece, Medium) else clip if clip and piece is Medium.AUDIO else next(own[piece])
        for piece in rendered
    ]


def _spans(media: Sequence[_Stands]) -> Ints:
    """The rows of Chat.spans."""
    rows, squares, features = [], 0, 0
    for medium, begin, end in media:
        heard = medium.kind is Medium.AUDIO
        rows.append((KINDS.index(medium.kind), features if heard else squares, begin, end))
        squares, features = squares + (0 if heard else medium.rows), features + heard
    return np.array(rows, np.int64).reshape(-1, 4)

"""The forms of the speech stages: one utterance and its words a sample, without a conversation around them.

    Transcripts   an encoder learns to hear (CTC):       features, and the ids of what was said       stage 2.1
    Waves         a codec learns to compress:            24 kHz speech                                stage 3.1
    Pairs         decoders learn to speak:               ids of what is to be said, and its speech    stage 3.2

Recordings stand in the lake at the rate of their kind, 24 kHz for corpora of kind `tts`, so that waves are as stored;
what a voice has made stands at the rate of its engine, and is resampled. A recording that cannot
be decoded is `Corrupt`: we wrote it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tarsia.builders.audio import decode_at
from tarsia.builders.chat import restore
from tarsia.builders.fbank import MELS, features_of
from tarsia.builders.samples import RATE_TTS
from tarsia.builders.speech import said
from tarsia.manifests.collate import CHATS, ROWS, Arrays, Form, lengths, padded
from tarsia.manifests.costs import words_of
from tarsia.manifests.seen import Broken
from tarsia.manifests.stream import Context, Streamed
from tarsia.manifests.tensors import Ints, filler
from tarsia.schemas import recipe
from tarsia.schemas.errors import Corrupt, Refused, UserError
from tarsia.schemas.sample import AUDIO, PLACEHOLDER

CODES = 1024  # of VITA-1.5's codebook: ids 0 to 1023, 40 a second
BEGIN, START, END, FILL = 1024, 1025, 1026, 1027  # what its decoders put around codes themselves
NONE = -1  # fills ids and codes up, beyond their lengths

Wave = NDArray[np.float32]
Spelling = Literal["words", "said"]


@dataclass(frozen=True, slots=True, eq=False)
class Utterances:
    """What is said in one context, utterance by utterance: ids of the words, and what the form makes of the sound."""

    number: int
    keys: tuple[str, ...]
    words: tuple[Ints, ...]
    sounds: tuple[NDArray[Any], ...]
    filler: int  # the id of a place where nothing is said
    broken: tuple[Broken, ...] = ()


@dataclass(frozen=True)
class Transcripts:
    """Speech and its transcript as the corpus spells it, in the recipe's tokens."""

    def arrays(self, context: Context, settings: recipe.Context) -> Utterances:
        """Sounds are features of (frames, 80)."""
        return _utterances(context, settings, "words", lambda flac, key, number: features_of(flac))

    def collate(self, items: Sequence[Utterances], settings: recipe.Context) -> Arrays:
        """Features filled up with 0, words with -1."""
        words, sounds = _words(items), _sounds(items)
        return {
            "features": padded(sounds, 0, np.float32, shape=(MELS,)),
            "features_lens": lengths(sounds),
            "words": padded(words, NONE, np.int64),
            "words_lens": lengths(words),
        }


@dataclass(frozen=True)
class Waves:
    """Speech alone, at 24 kHz."""

    def arrays(self, context: Context, settings: recipe.Context) -> Utterances:
        """Sounds are waves of (samples,), full scale 1."""
        return _utterances(context, settings, "words", lambda flac, key, number: _wave(flac))

    def collate(self, items: Sequence[Utterances], settings: recipe.Context) -> Arrays:
        """Waves filled up with silence."""
        return {"waves": padded(_sounds(items), 0, np.float32), "waves_lens": lengths(_sounds(items))}


@dataclass(frozen=True)
class Pairs:
    """Words and how they sound, under the names of VITA-1.5's speech decoders: `x` and `y`.

    `codes` gives the codec's ids of an utterance by the key of its sample and the number of its audio, from wherever
    the codec of stage 3.1 has left them. Without it the waves are given, to be encoded on the device.
    """

    codes: Callable[[str, int], Sequence[int] | Ints] | None = None

    def arrays(self, context: Context, settings: recipe.Context) -> Utterances:
        """Sounds are codes of (codes,) or waves of (samples,); words are normalised as `said` does it."""
        return _utterances(context, settings, "said", self._sound)

    def collate(self, items: Sequence[Utterances], settings: recipe.Context) -> Arrays:
        """`x` filled up with the pad token, since it is embedded; `y` with -1."""
        words, sounds = _words(items), _sounds(items)
        pad = items[0].filler if items else 0
        x = {"x": padded(words, pad, np.int64), "x_lens": lengths(words)}
        if self.codes is None:
            return {**x, "waves": padded(sounds, 0, np.float32), "waves_lens": lengths(sounds)}
        return {**x, "y": padded(sounds, NONE, np.int64), "y_lens": lengths(sounds)}

    def _sound(self, flac: bytes, key: str, number: int) -> NDArray[Any]:
        if self.codes is None:
            return _wave(flac)
        codes = np.asarray(self.codes(key, number), np.int64)
        if codes.ndim != 1 or not codes.size or codes.min() < 0 or codes.max() >= CODES:
            raise UserError(f"sample {key}, audio {number}: codes are a row of ids from 0 to {CODES - 1}")
        return codes


def form_of(stage: recipe.Stage, step: str | None = None) -> Form[Any]:
    """The form that a stage, or one of its steps, asks for. `UserError` where it has steps and none is named."""
    if (step is None) is bool(stage.steps) or (step is not None and step not in stage.steps):
        steps = ", ".join(stage.steps) or "none"
        raise UserError(f"stage '{stage.title}' has steps {steps}; {'say which' if step is None else f'no {step}'}")
    name = stage.steps[step].form if step is not None else stage.form
    chats: Form[Any] = ROWS if stage.pack and stage.pack.seconds else CHATS
    return {"chat": chats, "ctc": Transcripts(), "waves": Waves(), "pairs": Pairs()}[name]


def _wave(flac: bytes) -> Wave:
    return decode_at(flac, RATE_TTS).astype(np.float32) / np.float32(32768)


def spelt(part: Streamed, settings: recipe.Context) -> dict[str, Any]:
    """The ids of what each audio, stored or made, of a sample says: as its corpus spells it, as decoders get it."""
    encode, texts = words_of(settings).encode, list(_texts(part))
    return {"words": [encode(text) for text in texts], "said": [encode(said(text)) for text in texts]}


def _utterances(
    context: Context,
    settings: recipe.Context,
    spelling: Spelling,
    sound: Callable[[bytes, str, int], NDArray[Any]],
) -> Utterances:
    """Every audio of a context, stored or made, with the words of the turn that it answers or is answered by."""
    written = context.written
    if written and written.settings == settings:
        pad, kept = written.writing.filler, [written.spans[part.slot] for part in context.samples]
    else:
        pad, kept = filler(words_of(settings)), [spelt(part, settings) for part in context.samples]
    told = [(part, spellings[spelling]) for part, spellings in zip(context.samples, kept, strict=True)]
    words = [np.array(ids, np.int64) for _, spellings in told for ids in spellings]
    sounds = [_decoded(part, number, sound) for part, spellings in told for number in range(len(spellings))]
    keys = tuple(part.sample.key for part in context.samples)
    return Utterances(context.number, keys, tuple(words), tuple(sounds), pad)


def _texts(part: Streamed) -> Iterator[str]:
    """What is said in each audio of a sample: the words of the turn before an answer, of the turn after a question.

    Of speech that a voice has made, the words that it was given.
    """
    turns = part.sample.conversations
    for at, turn in enumerate(turns):
        for _ in range(turn.text.count(AUDIO)):
            made = part.words.get(0) if part.heard and not part.asked else None
            yield made or restore(PLACEHOLDER.sub("", turns[at ^ 1].text)).strip()


def _decoded(part: Streamed, number: int, sound: Callable[[bytes, str, int], NDArray[Any]]) -> NDArray[Any]:
    key = part.sample.key
    if part.sample.audios:
        member = part.sample.audios[number].member
        flac = part.media[member]
    else:
        member, flac = "q0.flac", part.heard[0]
    try:
        return sound(flac, key, number)
    except Refused as refused:
        raise Corrupt(f"sample {key}: {member} cannot be decoded: {refused.message}") from None


def _words(items: Sequence[Utterances]) -> list[Ints]:
    return [words for item in items for words in item.words]


def _sounds(items: Sequence[Utterances]) -> list[NDArray[Any]]:
    return [sound for item in items for sound in item.sounds]

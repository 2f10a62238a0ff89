"""Media as the model meets them: how many tokens each is, known from facts, and its pixels or features, on demand.

Which sample, which member, which rule of the recipe: everything that decoding needs is gathered here first, so that
ids can be written without opening a picture, and pictures can be decoded later and elsewhere.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tarsia.builders.audio import flac_length, resampled_length
from tarsia.builders.chat import Medium
from tarsia.builders.fbank import MELS, RATE, features_of, frame_count
from tarsia.builders.pixels import BLANK, Squares, frame_square, image_tiles
from tarsia.builders.tokens import TILE, TILE_TOKENS, audio_tokens, frame_positions, tiles, tiles_each
from tarsia.manifests.stream import Streamed
from tarsia.schemas.errors import Corrupt, Refused
from tarsia.schemas.recipe import Context, Frames
from tarsia.schemas.sample import ImageFacts, VideoFacts


class Broken(NamedTuple):
    """A medium whose bytes are what was stored and yet cannot be decoded."""

    key: str
    member: str
    reason: str


class Seen(NamedTuple):
    """A medium: how many tokens it is, how many squares or frames of features, and how these are made."""

    kind: Medium
    key: str
    member: str
    tokens: int
    rows: int
    files: tuple[str, ...]  # the members that it is made of, in order; a frame that is seen twice comes twice
    load: Callable[[], NDArray[Any]]

    def decoded(self) -> tuple[NDArray[Any], Broken | None]:
        """Its squares or features; grey or silence, and why, where it cannot be decoded."""
        try:
            array = self.load()
        except Refused as refused:
            blank = np.zeros((self.rows, MELS), np.float32)
            if self.kind is not Medium.AUDIO:
                blank = np.full((self.rows, TILE, TILE, 3), BLANK, np.uint8)
            return blank, Broken(self.key, self.member, refused.message)
        assert len(array) == self.rows, self
        return array, None


def media_of(part: Streamed, settings: Context) -> dict[Medium, Iterator[Seen]]:
    """The media of a sample, each kind in its order: those that are stored, and the answer that a voice has made."""
    sizes = [(image.width, image.height) for image in part.sample.images]
    most = tiles_each(sizes, most=settings.tiles, thumbnail=settings.thumbnail, cap=settings.sample_tiles)
    return {
        Medium.IMAGE: (_image(part, image, most, settings) for image in part.sample.images),
        Medium.VIDEO: (_video(part, video, settings.frames) for video in part.sample.videos),
        Medium.AUDIO: chain(
            (
                _audio(part, audio.member, _bytes(part, audio.member), audio.samples, audio.rate, settings)
                for audio in part.sample.audios
            ),
            (clip_of(part, turn, settings) for turn in part.heard if turn not in part.asked),
        ),
    }


def clip_of(part: Streamed, question: int, settings: Context) -> Seen:
    """The speech of a question that is heard. Its length stands in its header alone."""
    flac, member = part.heard[question], f"q{question}.flac"
    try:
        return _audio(part, member, flac, *flac_length(flac), settings)
    except Refused as refused:
        raise Corrupt(f"sample {part.sample.key}: {member} is no FLAC: {refused.message}") from None


def _bytes(part: Streamed, member: str) -> bytes:
    if member not in part.media:
        raise Corrupt(f"sample {part.sample.key} has no member '{member}'")
    return part.media[member]


def _image(part: Streamed, image: ImageFacts, most: int, settings: Context) -> Seen:
    rule: dict[str, Any] = {"most": most, "thumbnail": settings.thumbnail}
    rows = tiles(image.width, image.height, **rule)
    load = partial(image_tiles, _bytes(part, image.member), (image.width, image.height), **rule)
    return Seen(Medium.IMAGE, part.sample.key, image.member, rows * TILE_TOKENS, rows, (image.member,), load)


def _video(part: Streamed, video: VideoFacts, rule: Frames) -> Seen:
    wanted = frame_positions(video.length, video.fps, rate=rule.fps, least=rule.min, most=rule.max)
    stored = {frame.position: _bytes(part, frame.member) for frame in video.frames}
    names = {frame.position: frame.member for frame in video.frames}
    member = f"frames {wanted[0]} to {wanted[-1]}"
    load = partial(_frames, wanted, stored)
    files = tuple(names[position] for position in wanted)
    return Seen(Medium.VIDEO, part.sample.key, member, len(wanted) * TILE_TOKENS, len(wanted), files, load)


def _frames(wanted: Sequence[int], stored: dict[int, bytes]) -> Squares:
    """The wanted frames; one that is wanted twice is decoded once."""
    squares = {position: frame_square(stored[position]) for position in set(wanted)}
    return np.stack([squares[position] for position in wanted])


def _audio(part: Streamed, member: str, flac: bytes, samples: int, rate: int, settings: Context) -> Seen:
    heard = resampled_length(samples, rate, RATE)
    load = partial(features_of, flac)
    tokens = audio_tokens(heard, settings.audio)
    return Seen(Medium.AUDIO, part.sample.key, member, tokens, frame_count(heard), (member,), load)

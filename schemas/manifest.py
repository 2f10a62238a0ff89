"""Manifest: what one stage trains on, to the sample. Written last: its presence means complete.

    stages/<model>/<stage>/manifest.json               this model: asked, selected, placed, and from what
    stages/<model>/<stage>/contexts-<digest8>.parquet  one row a context, in training order (CONTEXTS)
    stages/<model>/<stage>/samples-<digest8>.parquet   one row a placed sample, by context and slot (SAMPLES)
    stages/<model>/<stage>/unplaced-<digest8>.parquet  selected but not placed, each with its reason (UNPLACED)
    stages/<model>/<stage>/parents/<digest32>.json     manifests that were repaired
    stages/<model>/<stage>/shards/<n>-<digest8>.tar    after `tarsia pack`

Three numbers are told apart everywhere: **asked** (what the recipe says), **selected** (what the draw gave) and
**placed** (selected less what cannot be placed).
"""

import pyarrow as pa

from tarsia.schemas.lake import FORMAT, ORDER
from tarsia.schemas.model import Model
from tarsia.schemas.recipe import Context, Stage
from tarsia.schemas.sample import Kind
from tarsia.schemas.shard import Stored

_NAMES = pa.dictionary(pa.int32(), pa.string())

CONTEXTS = pa.schema(
    [
        ("context", pa.int32()),
        ("prompt", _NAMES),  # text | image | video: which system prompt it carries; sample | none by the recipe
        ("tokens", pa.int32()),  # what the model sees, system prompt included
        ("samples", pa.int32()),
        ("tiles", pa.int32()),
        ("frames", pa.int32()),
        ("audio_tokens", pa.int32()),
        ("seconds", pa.float64()),  # of audio, at 16 kHz
        ("first", pa.int64()),  # row of its first sample in SAMPLES
        ("padded_seconds", pa.float64()),  # of a batch by seconds: its longest sample x its samples; else null
    ]
)

_FACTS = [
    ("key", pa.string()),
    ("copy", pa.int32()),  # 0, or which repetition of the sample it is where a stage takes more than 100 %
    ("corpus", _NAMES),
    ("kind", _NAMES),
    ("language", _NAMES),
    ("modality", _NAMES),
    ("questions", pa.int32()),
    ("tokens", pa.int32()),
    ("seconds", pa.float64()),
]

SAMPLES = pa.schema(
    [
        ("context", pa.int32()),
        ("slot", pa.int32()),
        *_FACTS,
        ("tiles", pa.int32()),
        ("frames", pa.int32()),
        ("audio_tokens", pa.int32()),
        ("spoken", pa.list_(pa.int32())),  # human turns that are heard instead of read
        ("shard", pa.int32()),  # number in Manifest.shards
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("checksum", pa.uint64()),
        ("speech_shard", pa.int32()),  # number in Manifest.shards, null without speech
        ("speech_offset", pa.int64()),
        ("speech_length", pa.int64()),
        ("speech_checksum", pa.uint64()),
    ]
)

UNPLACED = pa.schema([*_FACTS, ("reason", pa.string())])


class Ask(Model):
    """What the recipe asked of one corpus, in its own unit, and of how much."""

    corpus: str
    kind: Kind
    take: int = 0  # which of the stage's takes, from 0
    amount: str
    available: int  # samples that the take admits of this corpus
    available_seconds: float
    available_questions: int | None = None  # where the amount is in questions
    available_tokens: int | None = None  # where the amount is in tokens: when all is read, without system prompts
    samples: int | None = None  # asked, where the amount is a share or in samples
    questions: int | None = None
    seconds: float | None = None  # where it is in hours
    tokens: int | None = None
    spoken: int | None = None  # questions to be heard


class Deviation(Model):
    """Where the mixture is furthest from that of the whole stage, over windows of 256 contexts one after the other.

    A rest of fewer contexts is no window. Shares are of the tokens of samples.
    """

    corpus: str
    window: int  # from 0
    share: float  # of the corpus in that window
    whole: float  # and in the stage

    @property
    def distance(self) -> float:
        """How far apart the two are."""
        return abs(self.share - self.whole)


WINDOW = 256  # contexts


class Count(Model):
    """What became of the ask, for one corpus, language and modality. Seconds are of audio at 16 kHz."""

    corpus: str
    kind: Kind
    language: str
    modality: str
    selected: int
    selected_questions: int
    selected_tokens: int
    selected_seconds: float
    placed: int
    placed_questions: int
    placed_tokens: int
    placed_seconds: float
    speakable: int = 0  # questions, of the selected
    refused: int = 0
    pending: int = 0
    spoken: int = 0  # questions, of the selected
    placed_spoken: int = 0


class Packed(Model):
    """One tar of packed contexts `first` to `first + contexts - 1`, with its index."""

    first: int
    contexts: int
    objects: tuple[Stored, ...]


WRITING = 1  # counts changes of what is written into packed contexts beside their media: ids, spans


class Writing(Model):
    """What the token ids of packed contexts were written with; the settings are those of the manifest."""

    version: int = WRITING
    vocabulary: str  # digest of the tokenizer's file
    filler: int  # the id that stands where media stand
    prompts: dict[str, tuple[int, ...]]  # ids of the system prompts, one of which opens each context; or none


PACKS = 2  # counts changes of what packed contexts hold of their samples; tars of another number are packed anew


class Packs(Model):
    """The packed tars of one stage, as `packed.json` lists them."""

    format: int = 1  # before the numbers began: the words of made speech are missing
    manifest: str  # digest of the manifest that they were packed from
    writing: Writing | None = None  # none: they hold no ids
    shards: tuple[Packed, ...]


class Repaired(Model):
    """What a plan follows: it has the same samples in the same contexts, but for those that a change touched."""

    parents: tuple[str, ...]  # digests of manifests, the one from scratch first, the one that was repaired last
    first: int  # contexts of the one from scratch: the order of an epoch begins with them as it did then
    before: int  # contexts of the one that was repaired
    kept: int  # of these: those that stay as they were


class Manifest(Model):
    """One stage, planned: from scratch, or repaired."""

    model: str
    name: str
    stage: Stage
    seed: int
    context: Context
    lake: str  # digest of the part of the snapshot that the stage sees
    recipe: str  # digest of the recipe with this stage alone
    format: int = FORMAT
    order: int = ORDER
    pool: str | None = None  # whose speech
    vocabulary: str  # digest of the tokenizer's file
    prompts: dict[str, int]  # tokens of each system prompt
    capacity: int  # tokens of a context that samples may fill
    asks: tuple[Ask, ...]
    counts: tuple[Count, ...]
    contexts: int
    bound: int  # no packing of these samples has fewer contexts
    binding: str  # what sets the bound: tokens, halves (too many samples near or above half a context), units (tiles)
    # and of batches by seconds: seconds, samples
    fill: float  # placed tokens of packed contexts over their capacity; of batches, placed seconds over theirs
    padding: float | None = None  # of batches by seconds: padded seconds over placed seconds, less 1
    deviation: Deviation | None  # none where there is no window
    shards: tuple[Stored, ...]  # tars that the rows point into
    tables: dict[str, Stored]  # contexts, samples, unplaced
    rows: dict[str, str]  # logical digest of each table
    repaired: Repaired | None = None

    def ask_of(self, count: Count) -> Ask | None:
        """The ask that a group of samples belongs to: the first of its corpus whose take admits them."""
        takes = self.stage.takes
        mine = (ask for ask in self.asks if ask.corpus == count.corpus and ask.take < len(takes))
        return next((ask for ask in mine if takes[ask.take].admits(count.language, count.modality)), None)


def stage_path(model: str, stage: str) -> str:
    """`stages/<model>/<stage>`."""
    return f"stages/{model}/{stage}"


def parent_path(model: str, stage: str, digest: str) -> str:
    """Where a manifest is kept that a repaired one follows, by its digest."""
    return f"{stage_path(model, stage)}/parents/{digest[:32]}.json"

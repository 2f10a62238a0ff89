"""`tarsia pack`: the contexts of a stage as WebDataset tars in training order, to be read from front to back.

    stages/<model>/<stage>/shards/00000768-<digest8>.tar       <context>.json, <context>.<slot>.<member> …
    stages/<model>/<stage>/shards/00000768-<digest8>.parquet   where each context lies
    stages/<model>/<stage>/packed.json                         written last: all of the above, for one manifest

A shard is a leaf of a binary trie over the numbers of contexts: an interval splits when what it holds is more than
`shard_bytes`, which is known from the manifest before anything is read. Borders and names therefore do not depend on
what comes before, and a change of some contexts writes anew the shards that hold these, and no other.

The JSON of a context holds its conversations as the model meets them, spoken questions replaced by `<audio>`, and
besides all that the samples' own JSON holds, so that a stream makes the same contexts of it. Beside it stand the token
ids and where everything lies in them (`manifests/written.py`), so that the trainer needs no tokenizer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tarsia.builders.chat import as_heard, ids_of, system
from tarsia.builders.lake import Lake
from tarsia.builders.shards import TarWriter, publish
from tarsia.builders.storage import open_store
from tarsia.builders.tables import get_table
from tarsia.manifests.costs import words_of
from tarsia.manifests.stream import Context, Stream, Streamed, manifest_digest
from tarsia.manifests.tensors import filler, write
from tarsia.manifests.utterances import spelt
from tarsia.manifests.written import kept
from tarsia.pipelines.pool import Pool, finish
from tarsia.pipelines.progress import Progress
from tarsia.schemas.errors import Drift
from tarsia.schemas.identity import canonical, digest_of
from tarsia.schemas.lake import FORMAT
from tarsia.schemas.manifest import PACKS, Manifest, Packed, Packs, Writing, stage_path

SHARD_BYTES = 256 << 20
ID_BYTES = 4  # an int32 a token
FACTS = ("context", "slot", "key", "tokens", "spoken", "checksum", "speech_checksum")  # all that a tar depends on

PLACES = pa.schema(
    [
        ("context", pa.int32()),
        ("tokens", pa.int32()),
        ("samples", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("checksum", pa.uint64()),
    ]
)


@dataclass(frozen=True)
class PackShard:
    """Writes contexts `first` to `last` - 1 of a stage."""

    lake: str
    stage: str
    manifest: str  # its digest
    first: int
    last: int
    record: str

    def run(self) -> Any:
        """The packed shard."""
        store = open_store(self.lake)
        stream = Stream(self.lake, self.stage, packed=False)
        if manifest_digest(stream.manifest) != self.manifest:
            raise Drift(f"{self.lake}: stage {self.stage} was planned anew while it was packed; pack it again")
        rows, writing = [], writing_of(stream.manifest)
        with store.spool() as file:
            tar = TarWriter(file)
            for number in range(self.first, self.last):
                context = stream.context(number)
                members = _members(context) + (_written(context, stream.manifest) if writing else [])
                where = tar.add(f"{number:08d}", members)
                rows.append({"context": number, "tokens": context.tokens, "samples": len(context.samples)})
                rows[-1] |= {"offset": where.offset, "length": where.length, "checksum": where.checksum}
            table = pa.Table.from_pylist(rows, PLACES)
            path = f"stages/{self.stage}/shards/{self.first:08d}"
            objects = publish(store, path, file, tar.close(), tar.bytes, [(".parquet", table)])
        packed = Packed(first=self.first, contexts=self.last - self.first, objects=objects)
        return packed.model_dump(mode="json")


def _members(context: Context) -> list[tuple[str, bytes]]:
    members: list[tuple[str, bytes]] = []
    samples = []
    for slot, streamed in enumerate(context.samples):
        prefix = f"{slot:03d}."
        audios = [f"{prefix}{audio.member}" for audio in streamed.sample.audios]
        members += [(prefix + name, data) for name, data in streamed.media.items()]
        members += [(f"{prefix}q{turn}.flac", data) for turn, data in streamed.heard.items()]
        audios += [f"{prefix}q{turn}.flac" for turn in sorted(streamed.heard)]
        samples.append(
            {
                **streamed.sample.model_dump(
                    mode="json", by_alias=True, include={"key", "corpus", "id", "kind", "language", "boxes", "speaker"}
                ),
                "tokens": streamed.tokens,
                "conversations": [
                    turn.model_dump(by_alias=True) for turn in as_heard(streamed.sample.conversations, streamed.asked)
                ],
                "heard": [
                    {"turn": turn, "text": question.text}
                    for turn, question in enumerate(_questions(streamed))
                    if turn in streamed.asked
                ],
                "said": {str(turn): text for turn, text in streamed.words.items()},
                "images": [prefix + image.member for image in streamed.sample.images],
                "videos": [[prefix + frame.member for frame in video.frames] for video in streamed.sample.videos],
                "audios": audios,
                "facts": streamed.sample.model_dump(mode="json", include={"images", "audios", "videos"}),
            }
        )
    facts = {"context": context.number, "prompt": context.prompt, "tokens": context.tokens, "samples": samples}
    return [*members, ("json", canonical(facts))]


def _written(context: Context, manifest: Manifest) -> list[tuple[str, bytes]]:
    settings = manifest.context
    return kept(write(context, settings), context, [spelt(part, settings) for part in context.samples])


def writing_of(manifest: Manifest) -> Writing | None:
    """What the ids of a stage are written with; none where sound is codes in the text, of which no arrays are made.

    Raises `Drift` where the vocabulary is not the one that the stage was planned with.
    """
    settings = manifest.context
    if settings.audio != "vita":
        return None
    words = words_of(settings)
    if words.digest != manifest.vocabulary:
        raise Drift(
            f"stage {manifest.model}/{manifest.name} was planned with another vocabulary than {settings.tokenizer} is "
            "now; plan it again"
        )
    prompts = manifest.prompts if settings.prompt == "context" else ()
    opening = {name: tuple(token for piece in system(name) for token in ids_of(words, piece)) for name in prompts}
    return Writing(vocabulary=words.digest, filler=filler(words), prompts=opening)


def _questions(streamed: Streamed) -> list[Any]:
    return [turn for turn in streamed.sample.conversations if turn.speaker == "human"]


def pack(
    lake: Lake, stages: Sequence[str], pool: Pool, *, shard_bytes: int = SHARD_BYTES, quiet: bool = False
) -> dict[str, list[Packed]]:
    """Writes the shards of the stages (`model/stage`) and a listing of each, last. Tars that stand are kept."""
    streams = [Stream(lake.url, stage, packed=False) for stage in stages]
    writings = [writing_of(stream.manifest) for stream in streams]
    tasks: list[PackShard] = []
    counts = []
    for stage, stream, writing in zip(stages, streams, writings, strict=True):
        mine = list(_tasks(lake, stage, stream.manifest, writing, shard_bytes))
        counts.append(len(mine))
        tasks += mine
    results = iter(finish(tasks, pool, Progress("pack", "shards", quiet=quiet)))
    packed = {}
    for stage, stream, writing, count in zip(stages, streams, writings, counts, strict=True):
        shards = [Packed.model_validate(next(results)) for _ in range(count)]
        listing = Packs(format=PACKS, manifest=manifest_digest(stream.manifest), writing=writing, shards=tuple(shards))
        path = f"{stage_path(*stage.split('/', 1))}/packed.json"
        lake.store.replace(path, canonical(listing.model_dump(mode="json")))
        packed[stage] = shards
    return packed


def _tasks(
    lake: Lake, stage: str, manifest: Manifest, writing: Writing | None, shard_bytes: int
) -> Iterator[PackShard]:
    """The shards of a stage; the record of each is named by all that its tar depends on."""
    contexts = get_table(lake.store, manifest.tables["contexts"], ("first", "samples", "tokens"))
    samples = get_table(lake.store, manifest.tables["samples"], ("length", "speech_length", *FACTS))
    begins = contexts["first"].to_numpy()
    ends = begins + contexts["samples"].to_numpy()
    read = samples["length"].to_numpy() + samples["speech_length"].fill_null(0).to_numpy()
    until = np.concatenate([[0], np.cumsum(read, dtype=np.int64)])
    ids = ID_BYTES * contexts["tokens"].to_numpy() if writing else 0
    settings = manifest.context.model_dump(mode="json", exclude={"tokens", "positions", "tokenizer"})
    common = [FORMAT, PACKS, manifest.prompts, writing and [writing.model_dump(mode="json"), settings]]
    for first, last in runs((until[ends] - until[begins] + ids).tolist(), shard_bytes):
        rows = samples.slice(int(begins[first]), int(ends[last - 1] - begins[first]))
        inputs = digest_of([*common, first, last, rows.select(FACTS).to_pylist()])[:16]
        record = f"commits/pack/{stage}/{first:08d}-{inputs}.json"
        yield PackShard(lake.url, stage, manifest_digest(manifest), first, last, record)


def runs(weights: Sequence[int], most: int) -> list[tuple[int, int]]:
    """The leaves of the binary trie over `weights`, (first, last + 1): an interval of more than `most` is split.

    >>> runs([3, 3, 3, 9, 1, 1], 6)
    [(0, 2), (2, 3), (3, 4), (4, 6)]
    """
    until = np.concatenate([[0], np.cumsum(weights, dtype=np.int64)])

    def leaves(first: int, size: int) -> list[tuple[int, int]]:
        last = min(first + size, len(weights))
        if size == 1 or until[last] - until[first] <= most:
            return [(first, last)]
        half = size // 2
        return leaves(first, half) + (leaves(first + half, half) if first + half < last else [])

    return leaves(0, 1 << (len(weights) - 1).bit_length()) if weights else []

"""`tarsia pack`: the contexts of a stage as WebDataset tars in training order, to be read from front to back.

    stages/<model>/<stage>/shards/00000003-<digest8>.tar       <context>.json, <context>.<slot>.<member> …
    stages/<model>/<stage>/shards/00000003-<digest8>.parquet   where each context lies
    stages/<model>/<stage>/packed.json                         written last: all of the above, for one manifest

A shard is a run of contexts of about `shard_bytes`, known from the manifest before anything is read. The JSON of a
context holds its conversations as the model meets them, spoken questions replaced by `<audio>`, and besides all that
the samples' own JSON holds, so that a stream makes the same contexts of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from tarsia.builders.chat import heard_text
from tarsia.builders.lake import Lake
from tarsia.builders.shards import TarWriter, publish
from tarsia.builders.storage import Store, open_store
from tarsia.builders.tables import get_table
from tarsia.manifests.stream import Context, Stream, Streamed, manifest_digest
from tarsia.pipelines.pool import Pool, finish
from tarsia.pipelines.progress import Progress
from tarsia.schemas.errors import Drift
from tarsia.schemas.identity import canonical, digest_of
from tarsia.schemas.lake import FORMAT
from tarsia.schemas.manifest import Manifest, Packed, stage_path

SHARD_BYTES = 256 << 20
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
    number: int
    first: int
    last: int
    record: str

    def run(self) -> Any:
        """The packed shard."""
        store = open_store(self.lake)
        stream = Stream(self.lake, self.stage, packed=False)
        if manifest_digest(stream.manifest) != self.manifest:
            raise Drift(f"{self.lake}: stage {self.stage} was planned anew while it was packed; pack it again")
        rows = []
        with store.spool() as file:
            tar = TarWriter(file)
            for number in range(self.first, self.last):
                context = stream.context(number)
                where = tar.add(f"{number:08d}", _members(context))
                rows.append({"context": number, "tokens": context.tokens, "samples": len(context.samples)})
                rows[-1] |= {"offset": where.offset, "length": where.length, "checksum": where.checksum}
            table = pa.Table.from_pylist(rows, PLACES)
            path = f"stages/{self.stage}/shards/{self.number:08d}"
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
                "conversations": _as_met(streamed),
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


def _questions(streamed: Streamed) -> list[Any]:
    return [turn for turn in streamed.sample.conversations if turn.speaker == "human"]


def _as_met(streamed: Streamed) -> list[dict[str, str]]:
    """The conversation with `<audio>` where a question is heard."""
    turns, question = [], -1
    for turn in streamed.sample.conversations:
        question += turn.speaker == "human"
        spoken = turn.speaker == "human" and question in streamed.asked
        turns.append({"from": turn.speaker, "value": heard_text(turn.text) if spoken else turn.text})
    return turns


def pack(
    lake: Lake, stages: Sequence[str], pool: Pool, *, shard_bytes: int = SHARD_BYTES, quiet: bool = False
) -> dict[str, list[Packed]]:
    """Writes the shards of the stages (`model/stage`) and a listing of each, last. Tars that stand are kept."""
    streams = [Stream(lake.url, stage, packed=False) for stage in stages]
    tasks: list[PackShard] = []
    counts = []
    for stage, stream in zip(stages, streams, strict=True):
        mine = list(_tasks(lake, stage, stream.manifest, shard_bytes))
        counts.append(len(mine))
        tasks += mine
    results = iter(finish(tasks, pool, Progress("pack", "shards", quiet=quiet)))
    packed = {}
    for stage, stream, count in zip(stages, streams, counts, strict=True):
        shards = [Packed.model_validate(next(results)) for _ in range(count)]
        listing = {
            "manifest": manifest_digest(stream.manifest),
            "shard_bytes": shard_bytes,
            "shards": [one.model_dump(mode="json") for one in shards],
        }
        lake.store.replace(f"{stage_path(*stage.split('/', 1))}/packed.json", canonical(listing))
        packed[stage] = shards
    return packed


def _tasks(lake: Lake, stage: str, manifest: Manifest, shard_bytes: int) -> Iterator[PackShard]:
    """Runs of contexts whose samples come to about `shard_bytes`; a record is named by all that its tar depends on.

    A repaired plan keeps the borders of its parent's tars, so that tars without a touched context stay.
    """
    contexts = get_table(lake.store, manifest.tables["contexts"], ("first", "samples"))
    samples = get_table(lake.store, manifest.tables["samples"], ("length", "speech_length", *FACTS))
    sizes = samples["length"].to_numpy() + samples["speech_length"].fill_null(0).to_numpy()
    firsts = contexts["first"].to_numpy()
    weights = np.add.reduceat(sizes, firsts) if len(firsts) else np.zeros(0, np.int64)
    begin, size, number, identity = 0, 0, 0, manifest_digest(manifest)
    borders = _borders(lake.store, stage, manifest, identity, shard_bytes) if manifest.repaired else {0}
    last = max(borders)
    for context, weight in enumerate([*weights.tolist(), shard_bytes]):
        full = context in borders or (begin >= last and size + weight > shard_bytes)
        if context > begin and (full or context == len(weights)):
            rows = samples.slice(int(firsts[begin]), int(contexts["samples"][begin:context].to_numpy().sum()))
            inputs = digest_of([FORMAT, begin, context, manifest.prompts, rows.select(FACTS).to_pylist()])[:16]
            folder = f"commits/pack/{stage}"
            record = f"{folder}/{number:08d}-{inputs}.json"
            yield PackShard(lake.url, stage, identity, number, begin, context, record)
            begin, size, number = context, 0, number + 1
        size += weight


def _borders(store: Store, stage: str, manifest: Manifest, identity: str, shard_bytes: int) -> set[int]:
    """Where the tars that stand begin and end, if they are of this plan or of one that it follows."""
    path = f"{stage_path(*stage.split('/', 1))}/packed.json"
    listing = orjson.loads(store.read(path)) if store.entry(path) else {}
    follows = {identity, *(manifest.repaired.parents if manifest.repaired else ())}
    if listing.get("manifest") not in follows or listing.get("shard_bytes") != shard_bytes:
        return {0}
    return {0, *(shard["first"] + shard["contexts"] for shard in listing["shards"])}

"""The second half of ingest: a leaf's media are read and checked, and its tar, index and text written.

A leaf is recorded under `commits/` by the digest of everything it is made from, so that a resumed, a repeated and an
incremental ingest are one and the same thing: the plan minus what is recorded.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.duplicates import Refusals, content_of, put_contents
from tarsia.builders.lake import Lake
from tarsia.builders.media import Media
from tarsia.builders.quarantine import TAKEN_DOWN, put_quarantine
from tarsia.builders.records import Run, merged
from tarsia.builders.samples import admit
from tarsia.builders.shards import Range, TarWriter, publish
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table
from tarsia.builders.tombstones import read_forbidden, shown_by, standing_for, tombstone_within
from tarsia.pipelines.coming import Coming, Step
from tarsia.pipelines.compare import Found
from tarsia.pipelines.pool import Pool, finish
from tarsia.pipelines.progress import Progress
from tarsia.schemas.errors import Corrupt, Refused
from tarsia.schemas.identity import canonical, digest_of, draw_of
from tarsia.schemas.lake import CorpusState
from tarsia.schemas.sample import Draft, Sample
from tarsia.schemas.shard import INDEX, TEXT, Shard, Stored

_COLUMNS = ("key", "id", "record", "code", "message", "draft", "said", "media")
Rows = tuple[dict[str, Any], dict[str, Any]]  # of INDEX and of TEXT, of one sample
_AS_SAID = ("key", "corpus", "id", "kind", "language", "images", "audios", "videos")  # a sample's, in the index too
_AT_ONCE = 64  # rows whose drafts are made together


@dataclass(frozen=True)
class Build(Step):
    """Writes one leaf: `parts` are runs of rows of sorted slices."""

    leaf: str
    parts: tuple[Run, ...]
    elsewhere: tuple[tuple[str, str, str], ...]  # key, code, message of what is refused as it stands elsewhere
    gone: Stored | None

    def run(self) -> Any:
        """The committed shard, and what was refused."""
        store, source = self.store, self.source
        refused, notes, written = list(self.elsewhere), Counter[str](), list[Rows]()
        skipped, forbidden = {key for key, _, _ in refused}, read_forbidden(store)
        gone = tombstone_within(store, self.gone, self.leaf)
        rows = merge(merged(store, self.parts, _COLUMNS), gone, key=lambda row: str(row["key"]))
        with store.spool() as file:
            tar = TarWriter(file)
            for row, draft in _drafted(row for row in rows if row["key"] not in skipped):
                if "draft" not in row:
                    written.append(standing_for(row, self.corpus))
                    continue
                try:
                    if draft is None:
                        raise Refused(row["code"], row["message"])
                    media = Media(source, row["media"], store)
                    sample, members, noted = admit(draft, self.corpus, row["key"], row["id"], media)
                    if forbidden and forbidden & {*shown_by(sample), content_of(row["said"], sample)}:
                        raise Refused(TAKEN_DOWN, "it shows what was taken down")
                except Refused as error:
                    refused.append((row["key"], error.code, error.message))
                    continue
                fields = sample.model_dump(mode="json", by_alias=True)
                where = tar.add(sample.key, [*members, ("json", canonical(fields))])
                written.append(_indexed(row, sample, fields, where))
                notes.update(noted)
            path = f"corpora/{self.corpus.name}/{self.leaf}"
            shard = put_leaf(store, path, file, tar, written)
        return {"shard": shard.model_dump(mode="json"), "refused": refused, "notes": dict(sorted(notes.items()))}


def _drafted(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Draft | None]]:
    """Rows with their drafts, if they have any: made for some rows at once, which takes a third of the time."""
    rows = iter(rows)
    while some := list(islice(rows, _AT_ONCE)):
        texts = [row.get("draft") for row in some]
        yield from zip(some, [Draft.model_validate_json(text) if text else None for text in texts], strict=True)


def _indexed(row: Mapping[str, Any], sample: Sample, fields: Mapping[str, Any], where: Range) -> Rows:
    """The rows of a sample: `row` is its sorted one, `fields` are its JSON."""
    index = {
        **{name: fields[name] for name in _AS_SAID},
        "record": row["record"],
        "said": row["said"],
        "content": content_of(row["said"], sample),
        "draw": draw_of(sample.key),
        "modality": sample.modality,
        "questions": sample.questions,
        "offset": where.offset,
        "length": where.length,
        "checksum": where.checksum,
        "members": [
            {"name": name, "offset": offset, "size": size, "checksum": checksum}
            for name, offset, size, checksum in where.members
        ],
    }
    return index, {"key": sample.key, "conversations": fields["conversations"]}


def put_leaf(store: Store, path: str, file: BinaryIO, tar: TarWriter, rows: Sequence[Rows]) -> Shard:
    """Publishes a leaf of a corpus, `path`, whose samples are all in the tar; nothing where there are none."""
    index = pa.Table.from_pylist([row for row, _ in rows], INDEX)
    text = pa.Table.from_pylist([row for _, row in rows], TEXT)
    tables = ((".parquet", index), (".text.parquet", text))
    live = index.filter(pc.greater(index["length"], 0))
    return Shard(
        leaf=path.rpartition("/")[2],
        samples=len(index),
        questions=pc.sum(live["questions"], min_count=0).as_py(),
        objects=publish(store, path, file, tar.close(), tar.bytes, tables) if rows else (),
        taken_down=len(index) - len(live),
    )


def build(
    corpora: Sequence[Coming], found: Mapping[str, Found], lake: Lake, pool: Pool, *, quiet: bool
) -> list[tuple[CorpusState, int]]:
    """Writes the leaves of sorted corpora that are not recorded; the state of each, and how many of its were not."""
    tasks = [list(_leaf_tasks(one, found[one.corpus.name].refused, lake)) for one in corpora]
    there = {entry.path for one in corpora for entry in lake.store.list(f"commits/corpora/{one.corpus.name}")}
    results = iter(finish([task for mine in tasks for task in mine], pool, Progress("build", "shards", quiet=quiet)))
    states = []
    for one, mine in zip(corpora, tasks, strict=True):
        looks = found[one.corpus.name].looks if one.corpus.dedup == "near" else {}
        state = _state(one, [next(results) for _ in mine], looks, lake)
        states.append((state, sum(task.record not in there for task in mine)))
    return states


def _leaf_tasks(one: Coming, refused: Refusals, lake: Lake) -> Iterator[Build]:
    """One task for each leaf, with what of it is refused because it stands elsewhere."""
    keys = sorted(refused)
    for piece in one.pieces:
        low, high = (f"{int(draw):016x}" for draw in (piece.draws[0], piece.draws[-1]))
        mine = keys[bisect_left(keys, low) : bisect_left(keys, f"{high}g")]
        elsewhere = tuple((key, *refused[key]) for key in mine)
        inputs = digest_of([*piece.inputs, elsewhere])
        record = f"commits/corpora/{one.corpus.name}/{piece.leaf}-{inputs[:16]}.json"
        yield Build(lake.url, one.corpus, record, piece.leaf, piece.parts, elsewhere, one.gone)


def _state(one: Coming, results: list[Any], looks: Mapping[str, Stored], lake: Lake) -> CorpusState:
    refused = {key: (code, message) for result in results for key, code, message in result["refused"]}
    slices = [f"{path}.arrow" for path in one.folded]
    built = (Shard.model_validate(result["shard"]) for result in results)
    shards = tuple(shard for shard in built if shard.objects)
    notes = sum((Counter(result["notes"]) for result in results), Counter[str]())
    gone = len(get_table(lake.store, one.gone, ("key",))) if one.gone else 0
    state = CorpusState(
        corpus=one.corpus,
        source=one.source,
        records=sum(part["rows"] for part in one.sorted) + gone,
        quarantined=dict(sorted(Counter(code for code, _ in refused.values()).items())),
        identities=one.identities,
        notes=dict(sorted(notes.items())),
        shards=shards,
        quarantine=put_quarantine(lake.store, one.corpus.name, slices, refused) if refused else None,
        taken_down=gone,
        tombstones=one.gone,
        origins=tuple(Stored.model_validate(part["origins"]) for part in one.sorted),
        contents=put_contents(lake.store, one.corpus.name, shards, looks) if shards else None,
    )
    if state.records != state.samples + len(refused) + gone:
        raise Corrupt(
            f"corpus '{one.corpus.name}': {state.records} records went in, "
            f"{state.samples} samples, {len(refused)} refusals and {gone} tombstones came out"
        )
    return state

"""Speech sidecars: what was decided of a corpus's questions, as shards beside its own and with the same keys.

A sidecar is a function of what is decided, whoever decided it and in whatever steps. Leaves that hold nothing new stay
as they are; of the others the driver stores what stands in them under `work/`, a table a leaf, and tasks gather the
bytes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tarsia.builders.clips import read_clips
from tarsia.builders.lake import Lake
from tarsia.builders.shards import TarWriter, publish
from tarsia.builders.storage import Store, open_store
from tarsia.builders.tables import as_schema, get_table, put_table, rows_digest
from tarsia.manifests.facts import Bools, Corpus
from tarsia.manifests.select import Rows
from tarsia.pipelines.pool import Pool as Workers
from tarsia.pipelines.pool import finish
from tarsia.pipelines.progress import Progress
from tarsia.schemas.corpus import CAP
from tarsia.schemas.identity import canonical, digest_of
from tarsia.schemas.lake import FORMAT
from tarsia.schemas.shard import SPEECH, Leaf, Shard, Stored, leaves
from tarsia.schemas.voice import VERDICTS

_FACTS = ("clip", "engine", "voice", "spoken", "samples", "rate", "samples16")  # of a clip, in its tar too
_PROOF = ("heard", "missed")  # in the index alone


class Decisions(NamedTuple):
    """What is decided of a corpus's questions, in the order of the corpus."""

    rows: Rows  # of the samples, ascending; one entry a question
    turns: npt.NDArray[np.int32]
    verdicts: Callable[[int, int], pa.Table]  # of a range of entries: VERDICTS; if refused, perhaps but a reason
    dirty: Bools  # by row of the corpus: whether what is decided is not what its sidecar says
    sidecar: Rows  # by row of the corpus: its row of the sidecar index that stands, -1 if none or it has changed


@dataclass(frozen=True)
class Sidecar:
    """Writes one leaf of a corpus's speech; `table` says what was decided of its samples' questions."""

    lake: str
    pool: str
    corpus: str
    leaf: str
    table: Stored
    record: str

    def run(self) -> Any:
        """The committed shard."""
        store = open_store(self.lake)
        decided = get_table(store, self.table)
        accepted = decided.filter(decided["reason"].is_null())
        sounds = read_clips(store, accepted)
        index: list[dict[str, Any]] = []
        with store.spool() as file:
            tar = TarWriter(file)
            for sample in _samples(decided.select(["key", "draw", "record", "turn", "reason", *_FACTS, *_PROOF])):
                clips, told, members, refused = [], [], [], []
                for one in sample:
                    if one["reason"] is not None:
                        refused.append({"turn": one["turn"], "reason": one["reason"]})
                        continue
                    member = f"q{one['turn']}.flac"
                    members.append((member, next(sounds)))
                    facts = {"turn": one["turn"], "member": member, **{name: one[name] for name in _FACTS}}
                    told.append(facts)
                    clips.append({**facts, **{name: one[name] for name in _PROOF}})
                who = {name: sample[0][name] for name in ("key", "draw", "record")}
                if clips:
                    members.append(("json", canonical({"key": who["key"], "clips": told})))
                where = tar.add(who["key"], members)
                index.append({**who, "clips": clips, "refused": refused, "offset": where.offset})
                index[-1] |= {"length": where.length, "checksum": where.checksum}
            path = f"speech/{self.pool}/{self.corpus}/{self.leaf}"
            return put_sidecar(store, path, file, tar, index).model_dump(mode="json")


def put_sidecar(store: Store, path: str, file: BinaryIO, tar: TarWriter, index: Sequence[Mapping[str, Any]]) -> Shard:
    """Publishes a leaf of speech, `path`, whose samples are all in the tar; `index` are its rows of SPEECH."""
    table = pa.Table.from_pylist(index, SPEECH)
    objects = publish(store, path, file, tar.close(), tar.bytes, [(".parquet", table)])
    questions = sum(len(row["clips"]) for row in index)
    return Shard(leaf=path.rpartition("/")[2], samples=len(index), questions=questions, objects=objects)


def _samples(decided: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """The rows of one sample after the other."""
    sample: list[dict[str, Any]] = []
    for batch in decided.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            if sample and row["key"] != sample[0]["key"]:
                yield sample
                sample = []
            sample.append(row)
    if sample:
        yield sample


def write_sidecars(
    every: Sequence[tuple[Corpus, Decisions]], pool: str, lake: Lake, workers: Workers, *, quiet: bool
) -> list[tuple[Shard, ...]]:
    """The sidecars of each corpus, written where they stand not yet."""
    tasks: list[Sidecar] = []
    folder = f"work/speech/{pool}/{uuid4().hex}"  # of this job alone, which removes it
    shards: list[list[Shard | int]] = []
    for corpus, decisions in every:
        standing, mine = _standing(corpus), list[Shard | int]()
        rows = np.unique(decisions.rows)
        for leaf in leaves(corpus.draws[rows], CAP):
            if same := _unchanged(standing, leaf, rows, decisions):
                mine.append(same)
            else:
                mine.append(len(tasks))
                tasks.append(_task(corpus, decisions, leaf, rows, pool, lake, folder))
        shards.append(mine)
    if tasks:
        results = finish(tasks, workers, Progress("sidecars", "shards", quiet=quiet))
        for task in tasks:
            lake.store.delete(task.table.path)
    return [
        tuple(one if isinstance(one, Shard) else Shard.model_validate(results[one]) for one in mine) for mine in shards
    ]


def _standing(corpus: Corpus) -> dict[str, tuple[Shard, int, int]]:
    """The leaves that stand: the shard of each, and which rows of the sidecar index are its own."""
    shards = corpus.speech_state.shards if corpus.speech_state else ()
    ends = np.cumsum([0, *(shard.samples for shard in shards)]).tolist()
    return {shard.leaf: (shard, begin, end) for shard, begin, end in zip(shards, ends, ends[1:], strict=False)}


def _unchanged(
    standing: Mapping[str, tuple[Shard, int, int]], leaf: Leaf, rows: Rows, decisions: Decisions
) -> Shard | None:
    """The shard of a leaf if it holds just these samples and nothing new was decided of them."""
    if leaf.name not in standing:
        return None
    shard, begin, end = standing[leaf.name]
    mine = rows[leaf.begin : leaf.end]
    lying = decisions.sidecar[mine]
    same = len(mine) == end - begin and not decisions.dirty[mine].any() and ((lying >= begin) & (lying < end)).all()
    return shard if same else None


_WHOSE = ("key", "record")


def _task(corpus: Corpus, decisions: Decisions, leaf: Leaf, rows: Rows, pool: str, lake: Lake, folder: str) -> Sidecar:
    """The task of a leaf, its table stored."""
    begin, end = np.searchsorted(decisions.rows, [rows[leaf.begin], rows[leaf.end - 1] + 1])
    whose = pa.array(decisions.rows[begin:end])
    verdicts = decisions.verdicts(int(begin), int(end))
    of = as_schema(corpus.index.select(_WHOSE).take(whose), pa.schema([SPEECH.field(name) for name in _WHOSE]))
    table = pa.table(
        {
            "key": of["key"],
            "draw": corpus.draws[decisions.rows[begin:end]],
            "record": of["record"],
            "turn": decisions.turns[begin:end],
            **{name: verdicts[name] for name in VERDICTS.names},
        }
    )
    name = corpus.state.corpus.name
    inputs = digest_of([FORMAT, pool, leaf.name, rows_digest(table)])[:16]
    stored = put_table(lake.store, f"{folder}/{name}/{leaf.name}", table)
    return Sidecar(lake.url, pool, name, leaf.name, stored, f"commits/speech/{pool}/{name}/{leaf.name}-{inputs}.json")

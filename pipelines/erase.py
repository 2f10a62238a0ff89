"""What holds records that were taken down, written again without them: shards, sidecars, tables, clips.

Nothing is read from raw data: a leaf is copied, member by member, into the bytes that an ingest beside the tombstones
would have given. New objects stand beside the old ones, which no reader of an older snapshot misses until `prune`; only
verdicts, which belong to no snapshot, change where they lie, and after everything else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.clips import read_verdicts
from tarsia.builders.quarantine import put_rows
from tarsia.builders.shards import TarWriter, members
from tarsia.builders.speech import spoken_form
from tarsia.builders.storage import Store, open_store
from tarsia.builders.tables import get_table, get_tables, put_table, to_parquet
from tarsia.builders.tombstones import standing_for
from tarsia.pipelines.build import Rows, put_leaf
from tarsia.pipelines.sidecars import put_sidecar
from tarsia.schemas.corpus import CAP, Corpus
from tarsia.schemas.identity import digest_of
from tarsia.schemas.lake import FORMAT, CorpusState, Snapshot, SpeechState
from tarsia.schemas.shard import CONTENTS, ORIGINS, QUARANTINE, SPEECH, Shard, Stored, leaves, lies_in
from tarsia.schemas.voice import VERDICTS


@dataclass(frozen=True)
class Erase:
    """Writes a leaf of a corpus again, tombstones in the places of what was taken down."""

    lake: str
    corpus: Corpus
    shard: Shard
    gone: Stored
    record: str

    def run(self) -> Any:
        """The new shard."""
        store = open_store(self.lake)
        gone = {row["key"]: row for row in get_table(store, self.gone).to_pylist()}
        rows: list[Rows] = []
        said = get_table(store, self.shard.text).to_pylist()
        with store.spool() as file, store.open(self.shard.tar.path) as old:
            tar = TarWriter(file)
            for row, conversation in zip(get_table(store, self.shard.index).to_pylist(), said, strict=True):
                if row["key"] in gone:
                    rows.append(standing_for(gone[row["key"]], self.corpus))
                else:
                    rows.append((row | _copied(row, old, tar, self.shard.tar.path), conversation))
            path = f"corpora/{self.corpus.name}/{self.shard.leaf}"
            return put_leaf(store, path, file, tar, rows).model_dump(mode="json")


@dataclass(frozen=True)
class EraseSpeech:
    """Writes a leaf of a corpus's speech again, without what was taken down; it may have been several leaves."""

    lake: str
    pool: str
    corpus: str
    leaf: str
    shards: tuple[Shard, ...]
    gone: Stored
    record: str

    def run(self) -> Any:
        """The new sidecar."""
        store = open_store(self.lake)
        gone = set(get_table(store, self.gone, ("key",))["key"].to_pylist())
        index: list[dict[str, Any]] = []
        with store.spool() as file:
            tar = TarWriter(file)
            for shard in self.shards:
                with store.open(shard.tar.path) as old:
                    for row in get_table(store, shard.index).to_pylist():
                        if row["key"] not in gone and lies_in(row["draw"], self.leaf):
                            where = _copied(row, old, tar, shard.tar.path)
                            index.append({**row, **{name: where[name] for name in ("offset", "length", "checksum")}})
            path = f"speech/{self.pool}/{self.corpus}/{self.leaf}"
            return put_sidecar(store, path, file, tar, index).model_dump(mode="json")


def _copied(row: dict[str, Any], old: Any, tar: TarWriter, path: str) -> dict[str, Any]:
    """Writes a sample of one tar into another; where it lies there."""
    old.seek(row["offset"])
    where = tar.add(row["key"], list(members(old.read(row["length"]), row["key"], path).items()))
    return {**where._asdict(), "members": [member._asdict() for member in where.members]}


def shard_tasks(lake: str, state: CorpusState, keys: Sequence[str], gone: Stored) -> list[Erase]:
    """One task for each leaf that holds one of the samples."""
    tasks = []
    for shard in state.shards:
        mine = sorted(key for key in keys if lies_in(int(key[:16], 16), shard.leaf))
        if mine:
            inputs = digest_of([FORMAT, state.corpus.of_media(), shard.tar.digest, shard.index.digest, mine])[:16]
            record = f"commits/corpora/{state.corpus.name}/{shard.leaf}-{inputs}.json"
            tasks.append(Erase(lake, state.corpus, shard, gone, record))
    return tasks


def speech_tasks(
    store: Store, lake: str, state: SpeechState, keys: pa.Array, gone: Stored
) -> list[EraseSpeech | Shard]:
    """The leaves of a corpus's speech without some samples, in order: as they stand, or the task that writes them."""
    tables = [get_table(store, shard.index, ("key", "draw")) for shard in state.shards]
    holds = [bool(pc.any(pc.is_in(table["key"], value_set=keys)).as_py()) for table in tables]
    if not any(holds):
        return list(state.shards)
    rest = [table.filter(pc.invert(pc.is_in(table["key"], value_set=keys)))["draw"].to_numpy() for table in tables]
    draws = np.concatenate([np.empty(0, np.uint64), *rest])
    standing = {shard.leaf: shard for shard, held in zip(state.shards, holds, strict=True) if not held}
    made: list[EraseSpeech | Shard] = []
    for leaf in leaves(draws, CAP):
        if leaf.name in standing:
            made.append(standing[leaf.name])
            continue
        mine = tuple(shard for shard in state.shards if shard.leaf.startswith(leaf.name))
        inputs = digest_of([FORMAT, leaf.name, [shard.tar.digest for shard in mine], gone.digest])[:16]
        record = f"commits/speech/{state.pool}/{state.corpus}/{leaf.name}-{inputs}.json"
        made.append(EraseSpeech(lake, state.pool, state.corpus, leaf.name, mine, gone, record))
    return made


# --- tables ---------------------------------------------------------------------------------------------------------


def without(store: Store, stored: Stored, schema: pa.Schema, keys: pa.Array, path: str) -> Stored:
    """A stored table without the rows of some keys; the same object where it has none."""
    table = get_table(store, stored)
    kept = table.filter(pc.invert(pc.is_in(table["key"], value_set=keys)))
    if len(kept) == len(table):
        return stored
    return put_table(store, path, kept.cast(schema))


def origins_without(store: Store, state: CorpusState, keys: pa.Array) -> tuple[Stored, ...]:
    """The origins of a corpus without some records."""
    path = f"origins/{state.corpus.name}/part"
    return tuple(without(store, part, ORIGINS, keys, path) for part in state.origins)


def contents_without(store: Store, state: CorpusState, keys: pa.Array) -> Stored | None:
    """What the samples of a corpus are compared by, without some of them."""
    path = f"contents/{state.corpus.name}/rows"
    return without(store, state.contents, CONTENTS, keys, path) if state.contents else None


def quarantine_without(store: Store, state: CorpusState, keys: pa.Array, everywhere: pa.Array) -> Stored | None:
    """The quarantine of a corpus without some records, and without the names of those taken down anywhere."""
    if state.quarantine is None:
        return None
    table = get_table(store, state.quarantine)
    kept = table.filter(pc.invert(pc.is_in(table["key"], value_set=keys)))
    named = names_one_of(kept["message"], everywhere)
    if len(kept) == len(table) and not pc.any(named).as_py():
        return state.quarantine
    said = pc.if_else(named, "equal to, or like, a record that was taken down", kept["message"])
    kept = kept.set_column(kept.column_names.index("message"), "message", said).cast(QUARANTINE)
    return put_rows(store, state.corpus.name, [kept]) if len(kept) else None


def names_one_of(messages: pa.ChunkedArray, keys: pa.Array) -> pa.ChunkedArray:
    """Which messages of refusals name a sample, by its key, that is one of some."""
    named = pc.struct_field(pc.extract_regex(messages, r"\((?P<key>[0-9a-f]{32})\)$"), "key")
    return pc.fill_null(pc.is_in(named, value_set=keys), False)


# --- clips ----------------------------------------------------------------------------------------------------------


class Segment(NamedTuple):
    """A table of verdicts and those of its rows that go."""

    path: str
    pool: str
    rows: pa.Table
    goes: pa.Array  # of bools

    @property
    def tars(self) -> set[str]:
        """The tars that hold a clip that goes."""
        return set(self.rows.filter(self.goes)["tar"].drop_null().to_pylist())


def questions_of(store: Store, shards: Sequence[Shard], sidecars: Sequence[Shard], keys: pa.Array) -> set[str]:
    """What voices were given of the questions of some samples, by the rules of now and of when it was spoken."""
    said: set[str] = set()
    spoken = any(True for folder in ("verdicts", "work/speak") for _ in store.list(folder))
    for shard in shards if spoken else ():
        facts, text = get_table(store, shard.index, ("key", "language")), get_table(store, shard.text)
        mine = pc.is_in(text["key"], value_set=keys)
        languages = facts.filter(mine)["language"].to_pylist()
        for language, turns in zip(languages, text.filter(mine)["conversations"].to_pylist(), strict=True):
            said |= {spoken_form(turn["value"], language) for turn in turns if turn["from"] == "human"}
    for shard in sidecars:
        rows = get_table(store, shard.index, ("key", "clips"))
        for clips in rows.filter(pc.is_in(rows["key"], value_set=keys))["clips"].to_pylist():
            said |= {clip["spoken"] for clip in clips}
    return said


def phrases_of(store: Store, corpus: str, shards: Sequence[Shard]) -> list[str]:
    """Where the spoken forms of the questions of some shards are kept, by whatever rules."""
    names = {shard.tar.path.rpartition("/")[2].removesuffix(".tar") for shard in shards}
    places = ((entry.path, entry.path.split("/")) for entry in store.list("spoken"))
    return [path for path, parts in places if parts[2] == corpus and parts[3] in names]


def segments(store: Store, said: set[str], snapshot: Snapshot, clips: Iterable[str] = ()) -> list[Segment]:
    """The verdicts on some texts or clips, and on the same sound, whose clips no sidecar of the snapshot has."""
    found = []
    names = pa.array(sorted(clips), pa.string())
    pools = sorted({entry.path.split("/")[1] for entry in store.list("verdicts")}) if said or len(names) else []
    for pool in pools:
        every = [
            (entry.path, read_verdicts(store, entry.path).combine_chunks()) for entry in store.list(f"verdicts/{pool}")
        ]
        texts = pa.array(sorted(said), pa.string())
        meant = [
            pc.or_(pc.is_in(table["spoken"], value_set=texts), pc.is_in(table["clip"], value_set=names))
            for _, table in every
        ]
        if not any(pc.any(one).as_py() for one in meant):
            continue
        used = _clips_of(store, snapshot, pool)
        unused = [pc.invert(pc.is_in(table["clip"], value_set=used)) for _, table in every]
        sounds = pa.concat_arrays([
            table.filter(pc.and_(one, free))["checksum"].drop_null().combine_chunks()
            for (_, table), one, free in zip(every, meant, unused, strict=True)
        ])  # fmt: skip
        for (path, table), one, free in zip(every, meant, unused, strict=True):
            same = pc.and_(table["tar"].is_valid(), pc.is_in(table["checksum"], value_set=sounds))
            goes = pc.and_(free, pc.or_(one, same))
            if pc.any(goes).as_py():
                found.append(Segment(path, pool, table, goes))
    return found


def _clips_of(store: Store, snapshot: Snapshot, pool: str) -> pa.Array:
    """The names of all clips in the sidecars of a pool."""
    states = (state for state in snapshot.speech if state.pool == pool)
    table = get_tables(store, (shard.index for state in states for shard in state.shards), SPEECH, ("clips",))
    lists = table["clips"].combine_chunks()
    lists = lists if isinstance(lists, pa.Array) else pa.concat_arrays(lists.chunks)
    return pc.struct_field(lists.flatten(), "clip")


def silence(store: Store, segment: Segment) -> None:
    """Writes a segment again without what goes: first the tar, then the verdicts in their place."""
    kept = segment.rows.filter(pc.invert(segment.goes)).to_pylist()
    for path in sorted(segment.tars):
        mine = [row for row in kept if row["tar"] == path]
        if not mine:
            continue
        with store.spool() as file, store.open(path) as old:
            tar = TarWriter(file)
            for row in mine:
                old.seek(row["offset"])
                member = tar.add(row["clip"], [("flac", old.read(row["size"]))]).members[0]
                row |= {"offset": member.offset, "size": member.size, "checksum": member.checksum}
            fresh = f"clips/{segment.pool}/{tar.close()[:16]}.tar"
            store.publish(file, fresh)
        for row in mine:
            row["tar"] = fresh
    store.replace(segment.path, to_parquet(pa.Table.from_pylist(kept, VERDICTS)))

"""Changes: two snapshots of a lake held against each other, corpus by corpus.

Shards are immutable and an edit touches one leaf, so only leaves whose objects differ are opened, and of these only
the columns that tell samples apart: rebuilding one corpus of forty costs the reading of one.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table
from tarsia.manifests.difference import keyed, met
from tarsia.schemas.errors import NotThere
from tarsia.schemas.identity import Draws, redraws
from tarsia.schemas.lake import CorpusState, Snapshot, SpeechState
from tarsia.schemas.model import Model
from tarsia.schemas.shard import Shard

Presence = Literal["added", "removed", "changed"]


class CorpusChange(Model):
    """One corpus that differs. A record is edited if its raw form is another; rewritten if only its stored bytes are.

    `entry`: what the catalog says of it differently. `quarantined`: by reason, how many more or fewer.
    """

    corpus: str
    presence: Presence
    records: tuple[int, int]  # before and after
    samples: tuple[int, int]
    questions: tuple[int, int]
    added: int
    removed: int
    edited: int
    rewritten: int
    taken_down: int
    quarantined: dict[str, int] = {}
    entry: tuple[str, ...] = ()
    shards: int  # of the snapshot after that the one before has not


class SpeechChange(Model):
    """The speech of one corpus by one pool of voices, where it differs, in clips; `refused`: so many more or fewer."""

    pool: str
    corpus: str
    added: int
    removed: int
    respoken: int
    refused: int
    shards: int


class Changes(Model):
    """What differs between two snapshots; what is not named here is the same to the byte."""

    before: int
    after: int
    same: int  # corpora
    corpora: tuple[CorpusChange, ...]
    speech: tuple[SpeechChange, ...]


def changes(store: Store, before: Snapshot, after: Snapshot) -> Changes:
    """What became of each corpus and of its speech, by name. `NotThere` where tables were pruned."""
    names = sorted({state.corpus.name for state in (*before.corpora, *after.corpora)})
    pairs = [(before.corpus(name), after.corpus(name)) for name in names]
    spoken = sorted({(state.pool, state.corpus) for state in (*before.speech, *after.speech)})
    voiced = [(pool, name, before.sidecars(pool, name), after.sidecars(pool, name)) for pool, name in spoken]
    try:
        corpora = tuple(_corpus(store, was, now) for was, now in pairs if _differ(was, now))
        speech = tuple(_speech(store, *one) for one in voiced if _objects(one[2]) != _objects(one[3]))
    except NotThere as gone:
        raise NotThere(f"{gone}; `tarsia prune` has deleted what snapshot {before.number} lists") from None
    return Changes(
        before=before.number, after=after.number, same=len(pairs) - len(corpora), corpora=corpora, speech=speech
    )


def _differ(was: CorpusState | None, now: CorpusState | None) -> bool:
    if was is None or now is None:
        return True
    return _objects(was) != _objects(now) or any(_entry(was, now)) or was.quarantined != now.quarantined


def _objects(state: CorpusState | SpeechState | None) -> list[str]:
    return [stored.digest for shard in state.shards for stored in shard.objects] if state else []


def _corpus(store: Store, was: CorpusState | None, now: CorpusState | None) -> CorpusChange:
    old, new = _apart(was.shards if was else (), now.shards if now else ())
    first, second = _facts(store, old), _facts(store, new)
    live, lives = first.length > 0, second.length > 0
    where = met(first.key, second.key)
    known = where >= 0
    stood = np.zeros(len(where), np.bool_)
    stood[known] = live[where[known]]
    both = np.flatnonzero(stood & lives)
    edited = first.record[where[both]] != second.record[both]
    rewritten = ~edited & (first.checksum[where[both]] != second.checksum[both])
    gone, there = int((stood & ~lives).sum()), int(stood.sum())
    quarantined = {
        code: count
        for code in sorted({*(was.quarantined if was else ()), *(now.quarantined if now else ())})
        if (count := (now.quarantined.get(code, 0) if now else 0) - (was.quarantined.get(code, 0) if was else 0))
    }
    name = (now or was).corpus.name  # type: ignore[union-attr]
    return CorpusChange(
        corpus=name,
        presence="added" if was is None else "removed" if now is None else "changed",
        records=(was.records if was else 0, now.records if now else 0),
        samples=(was.samples if was else 0, now.samples if now else 0),
        questions=(was.questions if was else 0, now.questions if now else 0),
        added=int(lives.sum()) - len(both),
        removed=int(live.sum()) - there,
        edited=int(edited.sum()),
        rewritten=int(rewritten.sum()),
        taken_down=gone,
        quarantined=quarantined,
        entry=tuple(_entry(was, now)) if was and now else (),
        shards=len(new),
    )


def _entry(was: CorpusState, now: CorpusState) -> Iterator[str]:
    old, new = was.corpus.model_dump(mode="json"), now.corpus.model_dump(mode="json")
    return (f"{name} was {old[name]}, is {new[name]}" for name in old if old[name] != new[name])


def _apart(was: Iterable[Shard], now: Iterable[Shard]) -> tuple[list[Shard], list[Shard]]:
    """The shards of each that the other has not."""
    old, new = ({_name(shard): shard for shard in shards if shard.objects} for shards in (was, now))
    return [old[name] for name in old if name not in new], [new[name] for name in new if name not in old]


def _name(shard: Shard) -> str:
    return "".join(stored.digest for stored in shard.objects)


class _Facts(NamedTuple):
    key: Draws
    record: Draws
    checksum: Draws
    length: npt.NDArray[np.int64]


def _facts(store: Store, shards: Iterable[Shard]) -> _Facts:
    names = ("key", "record", "checksum", "length")
    parts = [_of_table(get_table(store, shard.index, names)) for shard in shards]
    kinds = (np.uint64, np.uint64, np.uint64, np.int64)
    columns = zip(*parts, strict=True) if parts else ((), (), (), ())
    return _Facts(*(np.concatenate([np.empty(0, kind), *column]) for kind, column in zip(kinds, columns, strict=True)))


def _of_table(table: pa.Table) -> _Facts:
    column = {name: table[name].combine_chunks() for name in table.column_names}
    length, checksum = (column[name].to_numpy() for name in ("length", "checksum"))
    return _Facts(keyed(column["key"]), keyed(column["record"]), checksum, length)


def _speech(store: Store, pool: str, corpus: str, was: SpeechState | None, now: SpeechState | None) -> SpeechChange:
    old, new = _apart(was.shards if was else (), now.shards if now else ())
    (clips, names, refused), (others, renamed, refuse) = _clips(store, old), _clips(store, new)
    where = met(clips, others)
    both = np.flatnonzero(where >= 0)
    return SpeechChange(
        pool=pool,
        corpus=corpus,
        added=len(others) - len(both),
        removed=len(clips) - len(both),
        respoken=int((names[where[both]] != renamed[both]).sum()),
        refused=refuse - refused,
        shards=len(new),
    )


def _clips(store: Store, shards: Iterable[Shard]) -> tuple[Draws, Draws, int]:
    """Every question that is spoken, by its sample and turn; its clip; and how many are refused."""
    who, what, refused = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)], 0
    for shard in shards:
        table = get_table(store, shard.index, ("key", "clips", "refused"))
        clips = table["clips"].combine_chunks()
        spoken = clips.flatten()
        keys = np.repeat(keyed(table["key"].combine_chunks()), pc.list_value_length(clips).to_numpy())
        who.append(redraws(keys, "turn", spoken.field("turn").to_numpy().astype(np.uint64)))
        what.append(keyed(spoken.field("clip")))
        refused += pc.sum(pc.list_value_length(table["refused"])).as_py() or 0
    return np.concatenate(who), np.concatenate(what), refused

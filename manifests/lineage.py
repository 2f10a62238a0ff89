"""Lineage: from a raw record to every context that trains on it, and from a context back to the raw records.

No index of keys is stored beside a manifest. Where a sample lies in a stage follows from its draw: its rank in its
corpus, counted from the seed's starting point, is its position, and contexts stand in the order of positions but for
the windows that they were packed in, which a stage goes through in an order of its own. So the search opens the row
group where the sample should be and widens from there; hence the arithmetic can only make it slower, never wrong.

What it looks for is the place of the sample's bytes: a tar, whose name says what is in it, and an offset. In these a
row group is searched in a fifth of the time that its keys take. Keys are read where the lake has changed since and the
sample's tar is another.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tarsia.builders.lake import Lake
from tarsia.builders.tables import get_table, opened, read_group, whole_in
from tarsia.manifests.rooms import turns
from tarsia.manifests.stream import load_manifest
from tarsia.schemas.errors import NotThere, UnknownName, UserError
from tarsia.schemas.identity import COMPOSED, draw_of, key_of, start
from tarsia.schemas.lake import CorpusState, SpeechState
from tarsia.schemas.manifest import Ask, Manifest
from tarsia.schemas.model import Model
from tarsia.schemas.shard import Shard, Stored, span

_SOME = 8  # keys that a message names

_SOME = 8  # keys that a message names


class Origin(Model):
    """Where the raw record stands: a file below the corpus's root, and its bytes as far as the format has spans."""

    id: str
    file: str | None
    begin: int | None
    end: int | None


class Place(Model):
    """One copy of a sample in a stage: its context, or why it has none."""

    stage: str  # model/stage
    copy_number: int
    context: int | None = None
    slot: int | None = None
    tokens: int
    spoken: tuple[int, ...] = ()
    unplaced: str | None = None


class Utterance(Model):
    """A question that a voice was asked to say: what it said and what was heard of it, or why it did not."""

    pool: str
    turn: int
    voice: str = ""
    spoken: str = ""
    seconds: float = 0.0
    heard: str | None = None  # none: nobody listened
    missed: float | None = None  # of 1
    refused: str | None = None


class Record(Model):
    """A record of the lake: where it came from, where it lies, and what trains on it."""

    corpus: str
    key: str
    origin: Origin | None
    tar: str | None = None
    offset: int | None = None
    length: int | None = None
    quarantined: str | None = None
    utterances: tuple[Utterance, ...] = ()
    places: tuple[Place, ...] = ()


class _Row(NamedTuple):
    """A sample as its shard's index has it, and its rank in the corpus."""

    key: str
    rank: int
    tar: str
    offset: int
    length: int  # 0: it was taken down
    manner: tuple[str, str]  # language and modality


class _Leaves(NamedTuple):
    """Shards in the order of their draws: where each begins, and how many samples lie before it; the last is none."""

    shards: tuple[Shard, ...]
    begins: npt.NDArray[np.uint64]
    before: npt.NDArray[np.int64]


_PLACE = ("copy", "context", "slot", "tokens", "spoken")


class Lineage:
    """A lake that is asked where its records come from and go to; opened once, since its snapshot may list thousands.

    >>> Lineage(Lake("s3://bucket/lake")).of_id("sharegpt4v", "sa_545504").places
    """

    def __init__(self, lake: Lake) -> None:
        self._lake, self._store = lake, lake.store
        self._snapshot = lake.snapshot()
        self._footers: dict[str, pq.FileMetaData] = {}
        self._groups_end: dict[str, npt.NDArray[np.int64]] = {}  # of a table: the rows before the end of each row group
        self._leaves_of: dict[tuple[str, str], _Leaves] = {}  # by pool, or none, and corpus
        self._firsts: dict[tuple[str, int], int] = {}  # by corpus and seed
        self._tars: dict[str, dict[str, int]] = {}  # numbers of a stage's tars, by path
        self._turns: dict[str, list[int]] = {}  # when each window of a stage comes

    @cached_property
    def _manifests(self) -> list[Manifest]:
        found = (entry.path.split("/") for entry in self._store.list("stages"))
        stages = sorted({f"{path[1]}/{path[2]}" for path in found if path[-1] == "manifest.json"})
        return [load_manifest(self._lake.url, stage) for stage in stages]

    @cached_property
    def _current(self) -> dict[str, bool]:
        """Whether each stage was planned from the lake as it stands, so that ranks say where its samples are not."""
        parts = ((one, self._snapshot.part(one.stage.wants, one.pool)) for one in self._manifests)
        return {f"{one.model}/{one.name}": part.digest == one.lake for one, part in parts}

    def of_id(self, corpus: str, identity: str) -> Record:
        """The record that a corpus knows by an id. `UserError` where several bear it: then ask for the key of one."""
        state = self._snapshot.corpus(corpus)
        if state is None:
            raise UnknownName("corpus", corpus, [one.corpus.name for one in self._snapshot.corpora], self._lake.url)
        key = key_of(corpus, identity)
        if (origin := self._origin(state, key)) is None or origin.id != identity:
            keys = list(self._known_by(state, identity))
            if len(keys) > 1:
                some = ", ".join(keys[:_SOME]) + " …" * (len(keys) > _SOME)
                raise UserError(
                    f"corpus '{corpus}': {len(keys)} records have the id '{identity}'; ask for --key, of one of: {some}"
                )
            if not keys:
                raise NotThere(f"corpus '{corpus}' has no record with the id '{identity}'")
            key = keys[0]
            origin = self._origin(state, key)
        return self._record(state, key, self._row(state, key), origin)

    def of_key(self, key: str) -> Record:
        """The record of a key."""
        if len(key) != 32 or set(key) - set("0123456789abcdef"):
            raise UserError(f"'{key}' is no key: these are 32 hex digits")
        for state in self._snapshot.corpora:
            if (row := self._row(state, key)) is not None:
                return self._record(state, key, row, self._origin(state, key))
        for state in self._snapshot.corpora:  # in quarantine, or nowhere
            if (origin := self._origin(state, key)) is not None:
                return self._record(state, key, None, origin)
        raise NotThere(f"{self._lake.url}: no record has the key {key}")

    def of_context(self, stage: str, number: int) -> list[Record]:
        """The records of a context, in its order."""
        manifest = load_manifest(self._lake.url, stage)
        if not 0 <= number < manifest.contexts:
            raise NotThere(f"{stage} has {manifest.contexts} contexts, none is {number}")
        (context,) = self._span(manifest.tables["contexts"], number, 1, ("first", "samples"))
        rows = self._span(manifest.tables["samples"], context["first"], context["samples"], ("key", "corpus"))
        states = {state.corpus.name: state for state in self._snapshot.corpora}
        held = ((states[row["corpus"]], row["key"]) for row in rows)
        return [
            self._record(state, key, self._row(state, key), self._origin(state, key), only=[manifest])
            for state, key in held
        ]

    # --- the record -------------------------------------------------------------------------------------------------

    def _record(
        self,
        state: CorpusState,
        key: str,
        row: _Row | None,
        origin: Origin | None,
        *,
        only: Sequence[Manifest] | None = None,
    ) -> Record:
        if row is None:
            code = self._refusal(state, key)
            return Record(corpus=state.corpus.name, key=key, origin=origin, quarantined=code)
        return Record(
            corpus=state.corpus.name,
            key=key,
            origin=origin,
            tar=row.tar,
            offset=row.offset,
            length=row.length,
            utterances=tuple(self._utterances(state, key)),
            places=tuple(
                place
                for manifest in (self._manifests if only is None else only)
                for place in self._places(manifest, state, row)
            ),
        )

    def _utterances(self, state: CorpusState, key: str) -> Iterator[Utterance]:
        for speech in self._snapshot.speech:
            if speech.corpus != state.corpus.name or (found := self._leaf(speech, key)) is None:
                continue
            table = get_table(self._store, found[0].index, ("key", "clips", "refused"))
            for row in table.filter(pc.equal(table["key"], key)).to_pylist():
                for clip in row["clips"]:
                    facts = {name: clip[name] for name in ("turn", "voice", "spoken", "heard", "missed")}
                    yield Utterance(pool=speech.pool, seconds=clip["samples"] / clip["rate"], **facts)
                for refusal in row["refused"]:
                    yield Utterance(pool=speech.pool, turn=refusal["turn"], refused=refusal["reason"])

    def _row(self, state: CorpusState, key: str) -> _Row | None:
        if (found := self._leaf(state, key)) is None:
            return None
        shard, before = found
        at = pc.index(get_table(self._store, shard.index, ("key",))["key"], key).as_py()
        if at < 0:
            return None
        facts = get_table(self._store, shard.index, ("offset", "length", "language", "modality"))
        offset, length, *manner = (column[at].as_py() for column in facts.columns)
        return _Row(key, before + at, shard.tar.path, offset, length, (manner[0], manner[1]))

    def _leaf(self, state: CorpusState | SpeechState, key: str) -> tuple[Shard, int] | None:
        """The shard that covers a key's draw, and the samples before it."""
        leaves, draw = self._leaves(state), draw_of(key)
        at = int(np.searchsorted(leaves.begins, np.uint64(draw), "right")) - 1
        if at < 0 or draw > span(leaves.shards[at].leaf)[1]:
            return None
        return leaves.shards[at], int(leaves.before[at])

    def _leaves(self, state: CorpusState | SpeechState) -> _Leaves:
        known = (state.pool, state.corpus) if isinstance(state, SpeechState) else ("", state.corpus.name)
        if known not in self._leaves_of:
            begins = np.array([span(shard.leaf)[0] for shard in state.shards], np.uint64)
            before = np.cumsum([0, *(shard.samples for shard in state.shards)])
            self._leaves_of[known] = _Leaves(state.shards, begins, before)
        return self._leaves_of[known]

    def _first(self, state: CorpusState, seed: int) -> int:
        """The rank of the first sample from a seed's starting point on."""
        known = (state.corpus.name, seed)
        if known not in self._firsts:
            leaves, draw = self._leaves(state), start(seed)
            at = int(np.searchsorted(leaves.begins, np.uint64(draw), "right")) - 1
            inside = 0
            if at >= 0:
                draws = get_table(self._store, leaves.shards[at].index, ("draw",))["draw"].to_numpy()
                inside = int(np.searchsorted(draws, np.uint64(draw)))
            self._firsts[known] = int(leaves.before[max(at, 0)]) + inside
        return self._firsts[known]

    def _origin(self, state: CorpusState, key: str) -> Origin | None:
        for stored in state.origins:
            for group in self._groups(stored, key):
                table = self._read(stored, group, ("key", "id", "file", "begin", "end"))
                at = pc.index(table["key"], key).as_py()
                if at >= 0:
                    return Origin(**table.drop_columns("key").slice(at, 1).to_pylist()[0])
        return None

    def _known_by(self, state: CorpusState, identity: str) -> Iterator[str]:
        for stored in state.origins:
            table = get_table(self._store, stored, ("key", "id"))
            table = table.filter(pc.starts_with(table["id"], identity))
            plain = pc.replace_substring_regex(table["id"], COMPOSED, "").to_pylist()
            for key, own, base in zip(table["key"].to_pylist(), table["id"].to_pylist(), plain, strict=True):
                if own == identity or (base == identity and key != key_of(state.corpus.name, own)):
                    yield key

    def _refusal(self, state: CorpusState, key: str) -> str | None:
        table = get_table(self._store, state.quarantine, ("key", "code")) if state.quarantine else None
        at = pc.index(table["key"], key).as_py() if table else -1
        return table["code"][at].as_py() if table and at >= 0 else None

    # --- its contexts -----------------------------------------------------------------------------------------------

    def _places(self, manifest: Manifest, state: CorpusState, sample: _Row) -> Iterator[Place]:
        stage, takes = f"{manifest.model}/{manifest.name}", manifest.stage.takes
        mine = (one for one in manifest.asks if one.corpus == state.corpus.name)
        ask = next((one for one in mine if takes[one.take].admits(*sample.manner)), None)
        if ask is None:
            return
        lists = get_table(self._store, manifest.tables["unplaced"], ("key", "copy", "tokens", "reason"))
        left_out = set[int]()
        for row in lists.filter(pc.equal(lists["key"], sample.key)).to_pylist():
            left_out.add(row["copy"])
            yield Place(stage=stage, copy_number=row["copy"], tokens=row["tokens"], unplaced=row["reason"])
        stored, sought = manifest.tables["samples"], self._sought(manifest, stage, sample)
        ends = self._ends(stored)
        samples = int(ends[-1]) if len(ends) else 0
        for copy, position in enumerate(self._positions(manifest, state, ask, sample.rank)):
            if copy in left_out:
                continue
            guesses = np.array(self._turned(manifest, samples, position)) * samples
            likely = np.searchsorted(ends, guesses, side="right")
            away = np.abs(np.arange(len(ends))[:, None] - likely) * len(likely) + np.arange(len(likely))
            for at in np.argsort(away.min(axis=1), kind="stable").tolist():
                if (row := self._met(stored, at, sought, copy)) is not None:
                    yield Place(stage=stage, copy_number=copy, **{**row, "spoken": tuple(row["spoken"])})
                    break
            else:
                return  # the lake has changed since

    def _sought(self, manifest: Manifest, stage: str, sample: _Row) -> dict[str, Any]:
        """What the rows of a sample in a stage are known by: where its bytes lie, or its key."""
        if stage not in self._tars:
            self._tars[stage] = {stored.path: number for number, stored in enumerate(manifest.shards)}
        number = self._tars[stage].get(sample.tar)
        if number is None or not sample.length:
            return {"key": sample.key}
        return {"shard": number, "offset": sample.offset}

    def _turned(self, manifest: Manifest, samples: int, position: float) -> list[float]:
        """Where a position went when the windows of the stage were put into their order: the likeliest place first.

        Contexts are not filled evenly to the last: the sample may be in the window before, or in the next.
        """
        stage = f"{manifest.model}/{manifest.name}"
        if stage not in self._turns:
            self._turns[stage] = turns(samples, manifest.seed, manifest.name).tolist()
        when = self._turns[stage]
        window, inside = divmod(position * len(when), 1.0)
        nearer, other = (window - 1, window + 1) if inside < 0.5 else (window + 1, window - 1)
        there = [(int(one), one - window) for one in (window, nearer, other) if 0 <= one < len(when)]
        return [(when[one] + min(max(inside - by, 0.0), 1.0)) / len(when) for one, by in there]

    def _met(self, stored: Stored, group: int, sought: Mapping[str, Any], copy: int) -> dict[str, Any] | None:
        """The row of a copy of what is sought in a row group of SAMPLES."""
        table = self._read(stored, group, tuple(sought))
        same = reduce(pc.and_, (pc.equal(table[name], value) for name, value in sought.items()))
        if not (rows := pc.indices_nonzero(same).to_pylist()):
            return None
        told = self._read(stored, group, _PLACE).take(rows).to_pylist()
        return next(({name: row[name] for name in _PLACE[1:]} for row in told if row["copy"] == copy), None)

    def _positions(self, manifest: Manifest, state: CorpusState, ask: Ask, rank: int) -> list[float]:
        """Where in the stage each copy of a sample of some rank should be.

        Where the take admits a part of the corpus, or the lake has changed since, the sample may be there even if the
        arithmetic says it is not: then one place is named, to begin with.
        """
        takes, amount = manifest.stage.takes, manifest.stage.takes[ask.take].amount
        counts = (one for one in manifest.counts if one.corpus == ask.corpus)
        selected = sum(one.selected for one in counts if takes[ask.take].admits(one.language, one.modality))
        whole = max(1, int(self._leaves(state).before[-1]))  # rows: what was taken down keeps its rank
        sure = self._current[f"{manifest.model}/{manifest.name}"] and ask.available == whole
        skipped = amount.skipped(ask.available) if amount.unit == "%" else 0
        place = (rank - self._first(state, manifest.seed)) % whole * ask.available // whole - skipped
        places = range(place % max(1, ask.available), selected, max(1, ask.available))
        if not places and not sure:
            places = range(selected - 1, selected) if selected else places
        return [(2 * one + 1) / (2 * selected) for one in places]

    # --- row groups -------------------------------------------------------------------------------------------------

    def _footer(self, stored: Stored) -> pq.FileMetaData:
        if stored.path not in self._footers:
            with self._store.open(stored.path) as file, whole_in(f"{self._store.url}/{stored.path}"):
                self._footers[stored.path] = pq.read_metadata(file)
        return self._footers[stored.path]

    def _groups(self, stored: Stored, key: str) -> list[int]:
        """The row groups that may hold a key, of a table in the order of keys."""
        metadata, spelt = self._footer(stored), bytes.fromhex(key)
        known = ((group, metadata.row_group(group).column(0).statistics) for group in range(metadata.num_row_groups))
        return [group for group, one in known if one is None or not one.has_min_max or one.min <= spelt <= one.max]

    def _read(self, stored: Stored, group: int, columns: Sequence[str]) -> Any:
        where, footer = f"{self._store.url}/{stored.path}", self._footer(stored)
        with self._store.open(stored.path) as file, whole_in(where), opened(file, footer) as table:
            return read_group(table, group, columns)

    def _ends(self, stored: Stored) -> npt.NDArray[np.int64]:
        """The number of the first row behind each row group."""
        if stored.path not in self._groups_end:
            footer = self._footer(stored)
            sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
            self._groups_end[stored.path] = np.cumsum(sizes, dtype=np.int64)
        return self._groups_end[stored.path]

    def _span(self, stored: Stored, first: int, count: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Some rows of a table by their number."""
        rows, ends = list[dict[str, Any]](), self._ends(stored)
        low, high = np.searchsorted(ends, [first, first + count - 1], "right").tolist()
        for group in range(low, high + 1):
            begin = int(ends[group - 1]) if group else 0
            part = self._read(stored, group, columns).slice(max(first - begin, 0), first + count - max(begin, first))
            rows += part.to_pylist()
        return rows

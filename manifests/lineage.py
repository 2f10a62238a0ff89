"""Lineage: from a raw record to every context that trains on it, and from a context back to the raw records.

No index of keys is stored beside a manifest. Where a sample lies in a stage follows from its draw: its rank in its
corpus, counted from the seed's starting point, is its position, and contexts stand in the order of positions but for
the windows that they were packed in, which a stage goes through in an order of its own. So the search opens the row
group where the sample should be and widens from there; what it finds is compared by key, hence the arithmetic can only
make it slower, never wrong.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tarsia.builders.lake import Lake
from tarsia.builders.tables import get_table, opened, whole_in
from tarsia.manifests.plan import turns
from tarsia.manifests.stream import load_manifest
from tarsia.schemas.errors import NotThere, UnknownName, UserError
from tarsia.schemas.identity import COMPOSED, draw_of, key_of, start
from tarsia.schemas.lake import CorpusState, SpeechState
from tarsia.schemas.manifest import Ask, Manifest
from tarsia.schemas.model import Model
from tarsia.schemas.shard import Shard, Stored

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


class Lineage:
    """A lake that is asked where its records come from and go to; opened once, since its snapshot may list thousands.

    >>> Lineage(Lake("s3://bucket/lake")).of_id("sharegpt4v", "sa_545504").places
    """

    def __init__(self, lake: Lake) -> None:
        self._lake, self._store = lake, lake.store
        self._snapshot = lake.snapshot()
        self._footers: dict[str, pq.FileMetaData] = {}
        self._turns: dict[tuple[str, str], list[int]] = {}  # when each window of a stage comes

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
        return self._record(state, key)

    def of_key(self, key: str) -> Record:
        """The record of a key."""
        if len(key) != 32 or set(key) - set("0123456789abcdef"):
            raise UserError(f"'{key}' is no key: these are 32 hex digits")
        for state in self._snapshot.corpora:
            if self._row(state, key) is not None:
                return self._record(state, key)
        for state in self._snapshot.corpora:  # in quarantine, or nowhere
            if self._origin(state, key) is not None:
                return self._record(state, key)
        raise NotThere(f"{self._lake.url}: no record has the key {key}")

    def of_context(self, stage: str, number: int) -> list[Record]:
        """The records of a context, in its order."""
        manifest = load_manifest(self._lake.url, stage)
        if not 0 <= number < manifest.contexts:
            raise NotThere(f"{stage} has {manifest.contexts} contexts, none is {number}")
        (context,) = self._span(manifest.tables["contexts"], number, 1, ("first", "samples"))
        rows = self._span(manifest.tables["samples"], context["first"], context["samples"], ("key", "corpus"))
        states = {state.corpus.name: state for state in self._snapshot.corpora}
        return [self._record(states[row["corpus"]], row["key"], only=[manifest]) for row in rows]

    # --- the record -------------------------------------------------------------------------------------------------

    def _record(self, state: CorpusState, key: str, only: Sequence[Manifest] | None = None) -> Record:
        row, origin = self._row(state, key), self._origin(state, key)
        if row is None:
            code = self._refusal(state, key)
            return Record(corpus=state.corpus.name, key=key, origin=origin, quarantined=code)
        shard, rank = row
        facts = get_table(self._store, shard.index, ("key", "language", "modality", "offset", "length"))
        mine = facts.slice(pc.index(facts["key"], key).as_py(), 1).to_pylist()[0]
        group = (mine["language"], mine["modality"])
        return Record(
            corpus=state.corpus.name,
            key=key,
            origin=origin,
            tar=shard.tar.path,
            offset=mine["offset"],
            length=mine["length"],
            utterances=tuple(self._utterances(state, key)),
            places=tuple(
                place
                for manifest in (self._manifests if only is None else only)
                for place in self._places(manifest, state, key, rank, group)
            ),
        )

    def _utterances(self, state: CorpusState, key: str) -> Iterator[Utterance]:
        for speech in self._snapshot.speech:
            if speech.corpus != state.corpus.name or (found := self._leaf(speech, draw_of(key))) is None:
                continue
            table = get_table(self._store, found[0].index, ("key", "clips", "refused"))
            for row in table.filter(pc.equal(table["key"], key)).to_pylist():
                for clip in row["clips"]:
                    facts = {name: clip[name] for name in ("turn", "voice", "spoken", "heard", "missed")}
                    yield Utterance(pool=speech.pool, seconds=clip["samples"] / clip["rate"], **facts)
                for refusal in row["refused"]:
                    yield Utterance(pool=speech.pool, turn=refusal["turn"], refused=refusal["reason"])

    def _row(self, state: CorpusState, key: str) -> tuple[Shard, int] | None:
        """The shard that holds a key, and its rank in the corpus."""
        found = self._leaf(state, draw_of(key))
        if found is None:
            return None
        shard, before = found
        at = pc.index(get_table(self._store, shard.index, ("key",))["key"], key).as_py()
        return None if at < 0 else (shard, before + at)

    def _leaf(self, state: CorpusState | SpeechState, draw: int) -> tuple[Shard, int] | None:
        """The shard that covers a draw, and the samples before it."""
        bits, before = f"{draw:064b}", 0
        for shard in state.shards:
            if bits.startswith(shard.leaf[1:]):
                return shard, before
            before += shard.samples
        return None

    def _first(self, state: CorpusState, seed: int) -> int:
        """The rank of the first sample from a seed's starting point on."""
        draw = start(seed)
        found = self._leaf(state, draw)
        if found is None:  # between shards: an interval without samples
            bits = f"{draw:064b}"
            return sum(shard.samples for shard in state.shards if shard.leaf[1:] < bits)
        shard, before = found
        draws = get_table(self._store, shard.index, ("draw",))["draw"].to_numpy()
        return before + int(np.searchsorted(draws, np.uint64(draw)))

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

    def _places(
        self, manifest: Manifest, state: CorpusState, key: str, rank: int, group: tuple[str, str]
    ) -> Iterator[Place]:
        name, stage = state.corpus.name, f"{manifest.model}/{manifest.name}"
        takes = manifest.stage.takes
        ask = next((one for one in manifest.asks if one.corpus == name and takes[one.take].admits(*group)), None)
        if ask is None:
            return
        lists = get_table(self._store, manifest.tables["unplaced"], ("key", "copy", "tokens", "reason"))
        left_out = set[int]()
        for row in lists.filter(pc.equal(lists["key"], key)).to_pylist():
            left_out.add(row["copy"])
            yield Place(stage=stage, copy_number=row["copy"], tokens=row["tokens"], unplaced=row["reason"])
        stored = manifest.tables["samples"]
        ends = np.cumsum([self._footer(stored).row_group(group).num_rows for group in self._groups(stored)])
        samples = int(ends[-1]) if len(ends) else 0
        for copy, position in enumerate(self._positions(manifest, state, ask, rank)):
            if copy in left_out:
                continue
            guesses = np.array(self._turned(manifest, samples, position)) * samples
            likely = np.searchsorted(ends, guesses, side="right").tolist()
            distance = [min(len(likely) * abs(group - at) + place for place, at in enumerate(likely))
                        for group in range(len(ends))]  # fmt: skip
            for at in sorted(range(len(ends)), key=distance.__getitem__):
                row = self._met(stored, at, key, copy)
                if row is not None:
                    del row["key"], row["copy"]
                    yield Place(stage=stage, copy_number=copy, **{**row, "spoken": tuple(row["spoken"])})
                    break
            else:
                return  # the lake has changed since

    def _turned(self, manifest: Manifest, samples: int, position: float) -> list[float]:
        """Where a position went when the windows of the stage were put into their order: the likeliest place first.

        Contexts are not filled evenly to the last: the sample may be in the window before, or in the next.
        """
        key = (manifest.model, manifest.name)
        if key not in self._turns:
            self._turns[key] = turns(samples, manifest.seed, manifest.name).tolist()
        when = self._turns[key]
        window, inside = divmod(position * len(when), 1.0)
        nearer, other = (window - 1, window + 1) if inside < 0.5 else (window + 1, window - 1)
        there = [(int(one), one - window) for one in (window, nearer, other) if 0 <= one < len(when)]
        return [(when[one] + min(max(inside - by, 0.0), 1.0)) / len(when) for one, by in there]

    def _met(self, stored: Stored, group: int, key: str, copy: int) -> dict[str, Any] | None:
        """The row of a copy in a row group of SAMPLES."""
        keys = self._read(stored, group, ("key",))["key"]
        at = pc.index(keys, key).as_py()
        while at >= 0:
            columns = ("key", "copy", "context", "slot", "tokens", "spoken")
            row: dict[str, Any] = self._read(stored, group, columns).slice(at, 1).to_pylist()[0]
            if row["copy"] == copy:
                return row
            more = pc.index(keys.slice(at + 1), key).as_py()
            at = -1 if more < 0 else at + 1 + more
        return None

    def _positions(self, manifest: Manifest, state: CorpusState, ask: Ask, rank: int) -> list[float]:
        """Where in the stage each copy of a sample of some rank should be.

        Where the take admits a part of the corpus, or the lake has changed since, the sample may be there even if the
        arithmetic says it is not: then one place is named, to begin with.
        """
        takes, amount = manifest.stage.takes, manifest.stage.takes[ask.take].amount
        counts = (one for one in manifest.counts if one.corpus == ask.corpus)
        selected = sum(one.selected for one in counts if takes[ask.take].admits(one.language, one.modality))
        whole = max(1, sum(shard.samples for shard in state.shards))  # rows: what was taken down keeps its rank
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

    def _groups(self, stored: Stored, key: str | None = None) -> list[int]:
        """The row groups of a table; with a key, of a table in key order: those that may hold it."""
        metadata = self._footer(stored)
        every = range(metadata.num_row_groups)
        if key is None:
            return list(every)
        known = ((group, metadata.row_group(group).column(0).statistics) for group in every)
        return [group for group, one in known if one is None or not one.has_min_max or one.min <= key <= one.max]

    def _read(self, stored: Stored, group: int, columns: Sequence[str]) -> Any:
        where, footer = f"{self._store.url}/{stored.path}", self._footer(stored)
        with self._store.open(stored.path) as file, whole_in(where), opened(file, footer) as table:
            return table.read_row_group(group, columns=list(columns), use_threads=False)

    def _span(self, stored: Stored, first: int, count: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Some rows of a table by their number."""
        rows, begin = list[dict[str, Any]](), 0
        for group in self._groups(stored):
            size = self._footer(stored).row_group(group).num_rows
            low, high = max(first - begin, 0), min(first + count - begin, size)
            if low < high:
                rows += self._read(stored, group, columns).slice(low, high - low).to_pylist()
            begin += size
        return rows

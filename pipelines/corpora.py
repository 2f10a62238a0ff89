"""Corpora, as plans and voices read them: the columns of all their shards, each read once and held while it is needed.

Costs are counted shard by shard, in parallel, and kept under `costs/` by the digest of the recipe's settings, so that a
second plan counts only what is new. Whether what a sidecar holds was said of a record as it stands is found while its
shards are read: the digests of records, a sixth of an index, are read where sidecars may ask for them, and not held.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tarsia.builders.columns import Columns, Words, words
from tarsia.builders.lake import Lake
from tarsia.builders.storage import Store, open_store
from tarsia.builders.tables import as_schema, get_table, get_tables, put_table
from tarsia.manifests.costs import COSTS, count, settings_digest
from tarsia.manifests.decide import refuse_unknown
from tarsia.manifests.facts import SAID, SAMPLES_OF, SPEAKING, VERDICTS_OF, Corpus
from tarsia.manifests.select import Rows
from tarsia.pipelines.pool import Pool, finish
from tarsia.pipelines.progress import Progress
from tarsia.schemas.lake import CorpusState, Snapshot
from tarsia.schemas.recipe import Context, Recipe, Stage
from tarsia.schemas.shard import INDEX, TEXT, Shard, Stored, span


@dataclass(frozen=True)
class Count:
    """Counts what the samples of one shard cost."""

    lake: str
    corpus: str
    shard: Shard
    context: Context

    @property
    def record(self) -> str:
        """Under the settings and the name of the shard."""
        name = self.shard.tar.path.rsplit("/", 1)[1].removesuffix(".tar")
        return f"commits/costs/{settings_digest(self.context)}/{self.corpus}/{name}.json"

    def run(self) -> Any:
        """Where the costs are stored."""
        store = open_store(self.lake)
        index, text = get_table(store, self.shard.index), get_table(store, self.shard.text)
        costs = count(index.cast(INDEX), text.cast(TEXT), self.context)
        name = self.record.removeprefix("commits/").removesuffix(".json")
        return put_table(store, name, costs).model_dump(mode="json")


class Corpora:
    """The corpora that some stages of a recipe ask for, their costs counted where they were not yet.

    `UserError` where a stage asks for what the lake does not have.
    """

    def __init__(
        self, snapshot: Snapshot, lake: Lake, recipe: Recipe, pool: Pool, *, voices: str | None, quiet: bool
    ) -> None:
        refuse_unknown(recipe, snapshot)
        self._stages = recipe.stages
        self._lake, self._snapshot, self._voices = lake, snapshot, voices
        stages = recipe.stages.values()
        self._states = [state for state in snapshot.corpora if any(stage.wants(state.corpus) for stage in stages)]
        shards = ((state.corpus.name, shard) for state in self._states for shard in state.shards)
        tasks = [Count(lake.url, corpus, shard, recipe.context) for corpus, shard in shards]
        counted = iter(finish(tasks, pool, Progress("count", "shards", quiet=quiet)))
        self._costs = [[Stored.model_validate(next(counted)) for _ in state.shards] for state in self._states]

    def to_speak(self) -> list[Corpus]:
        """All of them, with every word of their sidecars."""
        return [self._read(at, SPEAKING, SAID) for at in range(len(self._states))]

    def by_stage(self) -> Iterator[tuple[str, list[Corpus]]]:
        """Those of each stage. Each is read where it is needed first, and let go when no stage needs it any more.

        Stages that share corpora follow each other, so that none is held for longer than it must be.
        """
        held, coming = dict[str, Corpus](), dict(self._stages)
        while coming:
            wanting = (name for name in coming if held.keys() & self._wanted(coming[name]))
            name = next(wanting, next(iter(coming)))
            wanted = self._wanted(coming.pop(name))
            for at, state in enumerate(self._states):
                if state.corpus.name in wanted and state.corpus.name not in held:
                    held[state.corpus.name] = self._read(at, SAMPLES_OF, VERDICTS_OF)
            yield name, [held[corpus] for corpus in wanted]
            still = {corpus for stage in coming.values() for corpus in self._wanted(stage)}
            held = {corpus: tables for corpus, tables in held.items() if corpus in still}

    def _wanted(self, stage: Stage) -> list[str]:
        return [state.corpus.name for state in self._states if stage.wants(state.corpus)]

    def _read(self, at: int, facts: pa.Schema, said: pa.Schema) -> Corpus:
        state, store = self._states[at], self._lake.store
        sidecars = self._snapshot.sidecars(self._voices, state.corpus.name) if self._voices else None
        speech = get_tables(store, (shard.index for shard in sidecars.shards), said, said.names) if sidecars else None
        index, speech = _index(state, store, facts, speech)
        return Corpus(
            state,
            index,
            _numbers(state.shards),
            _costs(store, self._costs[at], state.shards),
            sidecars,
            speech,
            _numbers(sidecars.shards) if sidecars else np.empty(0, np.int32),
        )


def _index(
    state: CorpusState, store: Store, facts: pa.Schema, speech: pa.Table | None
) -> tuple[pa.Table, pa.Table | None]:
    """The facts of a corpus, and its sidecars' rows with the rows that these belong to."""
    columns, whose = Columns(facts, _samples(state.shards)), _Whose(speech) if speech is not None else None
    begin = 0
    for shard in state.shards:
        asked = whose is not None and whose.asks_for(shard)
        table = get_table(store, shard.index, facts.names if "record" in facts.names or not asked else SPEAKING.names)
        columns.add(table)
        if whose and asked:
            whose.find(table, begin)
        begin += len(table)
    return columns.table(), whose.table() if whose else None


def _costs(store: Store, counted: Sequence[Stored], shards: Sequence[Shard]) -> pa.Table:
    """The costs, the three lists of every sample in one place of memory: each has an entry a question."""
    schema = pa.schema([field for field in COSTS if field.name != "key"])
    columns = Columns(schema, _samples(shards))
    for stored in counted:
        columns.add(get_table(store, stored, schema.names))
    costs = columns.table()
    first = costs["read"].combine_chunks()
    for name in ("heard", "speakable"):
        mine = costs[name].combine_chunks()
        if mine.offsets.equals(first.offsets):
            shared = pa.ListArray.from_arrays(first.offsets, mine.values)
            costs = costs.set_column(costs.column_names.index(name), costs.field(name), shared)
    return costs


_NAMED = pa.schema([SPEAKING.field("key"), SPEAKING.field("record")])


class _Whose:
    """Finds the samples that the rows of sidecars were said for: the same key, and the same record."""

    def __init__(self, speech: pa.Table) -> None:
        self._speech, self._named = speech, _named(speech)
        draws = self._named[:, 0].astype(np.uint64)
        self._order = np.argsort(draws, kind="stable")
        self._draws = draws[self._order]
        self._rows = np.full(len(speech), -1, np.int64)

    def asks_for(self, shard: Shard) -> bool:
        """Whether anything was said for samples of its leaf."""
        return bool(len(self._between(*span(shard.leaf))))

    def find(self, table: pa.Table, begin: int) -> None:
        """Looks in the index of a shard, whose first row is row `begin` of the corpus."""
        named = _named(as_schema(table.select(_NAMED.names), _NAMED))
        draws = named[:, 0].astype(np.uint64)
        among = self._between(int(draws[0]), int(draws[-1]))
        at, mine = np.searchsorted(draws, self._draws[among]), self._order[among]
        same = (named[at] == self._named[mine]).all(axis=1)
        self._rows[mine[same]] = begin + at[same]

    def _between(self, first: int, last: int) -> Rows:
        """Places in the order of draws."""
        low = np.searchsorted(self._draws, np.uint64(first), side="left")
        high = np.searchsorted(self._draws, np.uint64(last), side="right")
        return np.arange(low, high)

    def table(self) -> pa.Table:
        """The rows of the sidecars."""
        return self._speech.drop_columns(_NAMED.names).append_column("row", pa.array(self._rows))


def _named(table: pa.Table) -> Words:
    """What tells a record of a corpus apart: the two halves of its key, and those of its digest."""
    return np.concatenate([words(table[name].combine_chunks()) for name in _NAMED.names], axis=1)


def _samples(shards: Iterable[Shard]) -> int:
    return sum(shard.samples for shard in shards)


def _numbers(shards: Sequence[Shard]) -> npt.NDArray[np.int32]:
    """The number of the shard of each row."""
    return np.repeat(np.arange(len(shards), dtype=np.int32), [shard.samples for shard in shards])

"""What the stages of a recipe ask of the lake as it is now: decided, step by step, and published.

A step looks three times before it asks a voice: into the sidecars that stand, into the spoken forms that are kept, and
into the verdicts of the pool. Only what one does not know is looked for in the next, so a job that finds everything
decided reads no text and no verdict.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.clips import ORDERS, Book, names_in
from tarsia.builders.lake import Lake
from tarsia.builders.phrases import get_phrases, phrase
from tarsia.builders.speech import SPOKEN_RULES
from tarsia.builders.storage import open_store
from tarsia.builders.voices import find
from tarsia.manifests.decide import choose, circle
from tarsia.manifests.facts import Corpus
from tarsia.manifests.select import Rows
from tarsia.pipelines.corpora import Corpora
from tarsia.pipelines.overtake import is_overtaken
from tarsia.pipelines.plan import chosen_stages
from tarsia.pipelines.pool import Pool as Workers
from tarsia.pipelines.progress import Progress
from tarsia.pipelines.sidecars import write_sidecars
from tarsia.pipelines.told import Reach, Spoken, Told, Walk
from tarsia.schemas.errors import NotThere
from tarsia.schemas.lake import Snapshot, SpeechState
from tarsia.schemas.manifest import Ask
from tarsia.schemas.recipe import Recipe
from tarsia.schemas.shard import Shard
from tarsia.schemas.voice import Part, Pool


class Job:
    """What the stages ask of the lake as it is now, and how much of it is decided."""

    def __init__(
        self, recipe: Recipe, lake: Lake, pool: Pool, workers: Workers, *, only: Sequence[str], quiet: bool
    ) -> None:
        self.lake, self.pool, self.workers, self.quiet = lake, pool, workers, quiet
        self.snapshot = lake.snapshot()
        wanted = {name: recipe.stages[name] for name in chosen_stages(recipe, only) if recipe.stages[name].listens}
        part = recipe.model_copy(update={"stages": wanted})
        corpora = (
            Corpora(self.snapshot, lake, part, workers, voices=pool.name, quiet=quiet).to_speak() if wanted else []
        )
        self.parts = parts_of(pool)
        self.told = {corpus.state.corpus.name: Told(corpus, pool.name, self.parts) for corpus in corpora}
        self.walks = [
            self._walk(recipe, name, corpus, ask, rows)
            for name, stage in wanted.items()
            for corpus, ask, rows in choose(recipe, stage, corpora)
            if stage.spoken or corpus.unsaid.any()
        ]
        self.book = Book(lake.store, pool.name)
        self.pending: dict[str, str] = {}  # clip -> what its servers failed with

    def _walk(self, recipe: Recipe, stage: str, corpus: Corpus, ask: Ask, rows: Rows) -> Walk | Reach:
        """Towards a number of questions, or towards hours: how many samples these take, only their clips can tell."""
        told = self.told[corpus.state.corpus.name]
        if ask.seconds is None or not corpus.unsaid.any():
            return Walk(stage, told, ask.spoken or 0, rows)
        return Reach(stage, told, ask.seconds, circle(recipe, recipe.stages[stage], ask.take, corpus))

    def due(self, told: "Told") -> Rows:
        """The questions of a corpus to decide next, ascending."""
        return _together(walk.due() for walk in self.walks if walk.told is told)

    def expected(self, told: "Told") -> Rows:
        """The questions that will probably have to be decided, ascending."""
        return _together(walk.expected() for walk in self.walks if walk.told is told)

    def missing(self) -> pa.Table:
        """Decides what is known already; the clips that must be made before the walks can go on (ORDERS)."""
        while True:
            due = {name: self.due(told) for name, told in self.told.items()}
            if not any(map(len, due.values())):
                return ORDERS.empty_table()
            if not self.book.newest:
                self.book.refresh()
            self._phrase(due)
            decided = [self.told[name].learn(at, self.book) for name, at in due.items()]
            if not any(decided):
                break
        orders = pa.concat_tables([self.told[name].orders(at) for name, at in due.items()])
        return self._sorted(orders)

    def _sorted(self, orders: pa.Table) -> pa.Table:
        """Each clip once, by engine and voice and then in draw order: what a sidecar gathers was sealed together."""
        if self.pending:
            orders = orders.filter(pc.invert(pc.is_in(orders["clip"], pa.array(list(self.pending)))))
        names = names_in(orders["clip"])
        again = np.lexsort((names[:, 1], names[:, 0]))  # stable: of equal names the first comes first
        names = names[again]
        keep = np.sort(again[np.append(True, (names[1:] != names[:-1]).any(axis=1))[: len(again)]])
        voices = orders["voice"].to_numpy()[keep]
        engines = np.unique([voice.engine for voice in self.pool.voices], return_inverse=True)[1]
        return orders.take(pa.array(keep[np.lexsort((voices, engines[voices]))]))

    def _phrase(self, due: dict[str, Rows]) -> None:
        """Sees to it that all questions that are due have a voice and a spoken form."""
        new = {name: np.setdiff1d(at, self.told[name].named) for name, at in due.items()}
        tasks = [
            (name, part, Phrase(self.lake.url, name, shard, np.packbits(mask).tobytes()))
            for name, at in new.items()
            for shard, part, mask in self.told[name].shards(at)
        ]
        paths: dict[Any, list[str]] = {}
        progress = Progress("speak", "shards normalised", quiet=self.quiet)
        progress.start(len(tasks))
        for task, found in self.workers.map([task for *_, task in tasks]):
            paths[task] = found
            progress.step()
        progress.stop()
        said: dict[str, list[pa.Array]] = {name: [] for name in new}
        for name, part, task in tasks:
            table = get_phrases(self.lake.store, paths[task])
            where = np.searchsorted(table["at"].to_numpy(), part)
            said[name].append(table["spoken"].combine_chunks().take(pa.array(where)))
        for name, at in new.items():
            if len(at):
                self.told[name].name(at, pa.concat_arrays(said[name]))

    def settled(self) -> bool:
        """Looks up the verdicts that standing sidecars were made from; False if some are gone: they are asked anew."""
        changed = [told for told in self.told.values() if told.changed]
        if changed and not self.book.newest:
            self.book.refresh()
        return sum(told.settle(self.book) for told in changed) == 0

    def publish(self) -> bool:
        """Writes the sidecars and publishes them; False if another job did meanwhile: then all is to be asked again."""
        self.settled()
        changed = [told for told in self.told.values() if told.changed]
        decisions = [(told.corpus, told.decisions(self.book)) for told in changed]
        try:
            written = write_sidecars(decisions, self.pool.name, self.lake, self.workers, quiet=self.quiet)
        except NotThere:  # what was being gathered
            if is_overtaken(self.lake, self.snapshot, self.told):
                return False
            raise
        made = {id(told): shards for told, shards in zip(changed, written, strict=True)}
        states = [self._state(told, made.get(id(told))) for told in self.told.values()]
        try:
            self.lake.publish(lambda newest: self._with(newest, states))
        except Overtaken:
            return False
        return True

    def _state(self, told: "Told", shards: tuple[Shard, ...] | None) -> SpeechState:
        if shards is None:
            shards = told.corpus.speech_state.shards if told.corpus.speech_state else ()
        name = told.corpus.state.corpus.name
        return SpeechState(pool=self.pool.name, corpus=name, cast=self.parts, rules=SPOKEN_RULES, shards=shards)

    def _with(self, newest: Snapshot, states: list[SpeechState]) -> Snapshot:
        mine = {(state.pool, state.corpus) for state in states}
        for pair in mine:
            before, now = (snapshot.corpus(pair[1]) for snapshot in (self.snapshot, newest))
            taken = before and now and before.tombstones != now.tombstones
            if taken or newest.sidecars(*pair) != self.snapshot.sidecars(*pair):
                raise Overtaken
        kept = [state for state in newest.speech if (state.pool, state.corpus) not in mine]
        full = [state for state in states if state.shards]
        return newest.model_copy(
            update={"speech": tuple(sorted([*kept, *full], key=lambda state: (state.pool, state.corpus)))}
        )

    def report(self) -> list[Spoken]:
        """What each walk came to."""
        return [walk.report(self.pending) for walk in self.walks]


def _together(parts: Iterable[Rows]) -> Rows:
    return np.unique(np.concatenate([np.empty(0, np.int64), *parts]))


class Overtaken(Exception):
    """Another job has published sidecars of the same pool and corpus, or samples of it were taken down."""


def parts_of(pool: Pool) -> tuple[Part, ...]:
    """The voices of a pool as they are cast."""
    versions = {voice.engine: find(voice.engine, f"voice '{voice.name}'").version() for voice in pool.voices}
    return tuple(
        Part(name=one.name, identity=one.identity(versions[one.engine]), language=one.language, share=one.share)
        for one in pool.voices
    )


@dataclass(frozen=True)
class Phrase:
    """Sees to it that questions of a shard have a spoken form: those whose bit is set in `wanted`."""

    lake: str
    corpus: str
    shard: Shard
    wanted: bytes
    record: str = ""

    def run(self) -> Any:
        """Where their spoken forms are."""
        at = np.flatnonzero(np.unpackbits(np.frombuffer(self.wanted, np.uint8)))
        return phrase(open_store(self.lake), self.corpus, self.shard, at)

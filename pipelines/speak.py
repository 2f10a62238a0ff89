"""`tarsia speak`: voices ask about half of the questions that a recipe selects.

Per stage and corpus, the selected questions that can be spoken are walked in the order of their spoken draw until the
quota holds accepted clips. Each step of the walk asks only for what is still missing, so refusals are made up for and
nothing is spoken that no stage hears. What was decided goes into sidecar shards (`pipelines.sidecars`).

A step looks three times before it asks a voice: into the sidecars that stand, into the spoken forms that are kept, and
into the verdicts of the pool. Only what one does not know is looked for in the next, so a run that finds everything
decided reads no text and no verdict. What is left goes into a table of orders, by voice and then in draw order, and
tasks speak ranges of it: embedded engines in all workers, servers as `pipelines.served` tells.

Where a server fails, its questions stay pending: they keep their place in the walk, and running the same command again
asks for them.
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.clips import (
    ORDERS,
    SEGMENT,
    Book,
    Names,
    Script,
    Sealer,
    ask,
    get_orders,
    names_of,
    put_orders,
)
from tarsia.builders.desk import Tally
from tarsia.builders.endpoints import Unwell
from tarsia.builders.fleet import pause as usual_pause
from tarsia.builders.fleet import standing_out
from tarsia.builders.lake import Lake
from tarsia.builders.phrases import get_phrases, phrase
from tarsia.builders.speech import SPOKEN_RULES
from tarsia.builders.storage import open_store
from tarsia.builders.voices import find
from tarsia.manifests.cast import cast, identities
from tarsia.manifests.decide import Bools, Corpus, choose, questions_of, said_of
from tarsia.manifests.select import Rows, heard, walk
from tarsia.pipelines.plan import chosen_stages, load
from tarsia.pipelines.pool import Pool as Workers
from tarsia.pipelines.progress import Progress
from tarsia.pipelines.served import Converse, calibration_tasks, check_references, fields, lanes, served
from tarsia.pipelines.sidecars import Decisions, write_sidecars
from tarsia.schemas.errors import BadVoices, Refused, TarsiaError
from tarsia.schemas.lake import Snapshot, SpeechState
from tarsia.schemas.model import Model
from tarsia.schemas.recipe import Recipe
from tarsia.schemas.shard import Shard
from tarsia.schemas.voice import VERDICTS, Part, Pool, clip_name

UNDECIDED, ACCEPTED = -2, -1  # else the number of a reason
WATCH = 5.0  # s between two looks at what was sealed


class Share(Model):
    """Questions of one language."""

    selected: int
    speakable: int
    spoken: int
    refused: int
    pending: int


class Spoken(Model):
    """What speaking came to, for one stage and corpus. All are questions."""

    stage: str
    corpus: str
    selected: int
    asked: int
    speakable: int
    spoken: int
    refused: dict[str, int]
    pending: dict[str, int] = {}  # by what the servers failed with
    languages: dict[str, Share]


class Voiced(Model):
    """What one voice did in this run."""

    voice: str
    asked: int  # draws
    accepted: int  # clips
    refused: dict[str, int]  # draws, by reason
    unwell: dict[str, int]  # answers that decide nothing, by what its servers failed with
    hours: float  # of accepted speech
    working: float  # s of work for each second of speech, at one server or in one process
    usual: float | None = None  # where its refusals stand out: the share of a voice in the middle


class Speech(Model):
    """The report of one run."""

    questions: tuple[Spoken, ...] = ()
    voices: tuple[Voiced, ...] = ()


def speak(
    recipe: Recipe,
    lake: Lake,
    pool: Pool,
    workers: Workers,
    *,
    only: Sequence[str] = (),
    quiet: bool = False,
    pause: Callable[[int], float] = usual_pause,
) -> Speech:
    """Has the pool speak what the stages of the recipe ask for, and publishes the sidecars.

    When the servers give up, what was decided is published before their error is raised. `pause` says how long a
    server is left alone after so many faults in a row.
    """
    unseen = check_references(pool)  # tells what is wrong with the pool before all work
    servers = served(pool)
    if unseen and not quiet:
        print(f"the reference clips of {_some(unseen)} are not here and were not checked", file=sys.stderr)
    tallies: dict[str, Tally] = {}
    while True:
        job = Job(recipe, lake, pool, workers, only=only, quiet=quiet)
        stopped: TarsiaError | None = None
        while not stopped:
            orders = job.missing()
            if not len(orders):
                if job.settled():
                    break
                continue
            try:
                going = _speak(orders, job, servers, tallies, pause)
            except (Unwell, BadVoices) as error:
                stopped, going = error, False
                job.book.refresh()
                job.missing()  # takes what was decided before that
            if not going:
                break
        if job.publish():
            break
    if stopped:
        raise stopped
    return Speech(questions=tuple(job.report()), voices=tuple(_voiced(tallies)))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# --- what is asked, and what is known of it -------------------------------------------------------------------------


class Job:
    """What the stages ask of the lake as it is now, and how much of it is decided."""

    def __init__(
        self, recipe: Recipe, lake: Lake, pool: Pool, workers: Workers, *, only: Sequence[str], quiet: bool
    ) -> None:
        self.lake, self.pool, self.workers, self.quiet = lake, pool, workers, quiet
        self.snapshot = lake.snapshot()
        wanted = {name: recipe.stages[name] for name in chosen_stages(recipe, only) if recipe.stages[name].spoken}
        part = recipe.model_copy(update={"stages": wanted})
        corpora = load(self.snapshot, lake, part, workers, voices=pool.name, quiet=quiet) if wanted else []
        self.parts = parts_of(pool)
        self.told = {corpus.state.corpus.name: Told(corpus, self.parts) for corpus in corpora}
        self.walks = [
            Walk(name, self.told[corpus.state.corpus.name], ask.spoken or 0, rows)
            for name, stage in wanted.items()
            for corpus, ask, rows in choose(recipe, stage, corpora)
        ]
        self.book = Book(lake.store, pool.name)
        self.pending: dict[str, str] = {}  # clip -> what its servers failed with

    def due(self, told: "Told") -> Rows:
        """The questions of a corpus to decide next, ascending."""
        mine = [walk.due() for walk in self.walks if walk.told is told]
        return np.unique(np.concatenate([np.empty(0, np.int64), *mine]))

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
        clips = orders["clip"].to_pylist()
        first = dict(zip(reversed(clips), range(len(clips) - 1, -1, -1), strict=True))
        keep = np.array(sorted(row for clip, row in first.items() if clip not in self.pending), np.int64)
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
                self.told[name].name(at, pa.concat_arrays(said[name]), self.pool)

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
        written = write_sidecars(decisions, self.pool.name, self.lake, self.workers, quiet=self.quiet)
        made = {id(told): shards for told, shards in zip(changed, written, strict=True)}
        states = [self._state(told, made.get(id(told))) for told in self.told.values()]
        try:
            self.lake.publish(lambda newest: self._with(newest, states))
        except _Overtaken:
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
            if newest.sidecars(*pair) != self.snapshot.sidecars(*pair):
                raise _Overtaken
        kept = [state for state in newest.speech if (state.pool, state.corpus) not in mine]
        full = [state for state in states if state.shards]
        return newest.model_copy(
            update={"speech": tuple(sorted([*kept, *full], key=lambda state: (state.pool, state.corpus)))}
        )

    def report(self) -> list[Spoken]:
        """What each walk came to."""
        return [walk.report(self.pending) for walk in self.walks]


class _Overtaken(Exception):
    """Another job has published sidecars of the same pool and corpus."""


def parts_of(pool: Pool) -> tuple[Part, ...]:
    """The voices of a pool as they are cast."""
    versions = {voice.engine: find(voice.engine, f"voice '{voice.name}'").version() for voice in pool.voices}
    return tuple(
        Part(name=one.name, identity=one.identity(versions[one.engine]), language=one.language, share=one.share)
        for one in pool.voices
    )


class Told:
    """One corpus, and what is decided of its questions. A question is named by its place among all of the corpus."""

    def __init__(self, corpus: Corpus, parts: tuple[Part, ...]) -> None:
        self.corpus = corpus
        self.parts = parts
        asked = questions_of(corpus)
        self.first, self.speakable, self._sidecar = asked.first, asked.speakable, asked.sidecar
        self.code = np.full(len(self.speakable), UNDECIDED, np.int16)
        self.reasons: list[str] = []
        self._row = np.full(len(self.speakable), -1, np.int32)  # of the book, where it is known
        self._dirty = np.zeros(len(corpus.index), np.bool_)
        self.named = np.empty(0, np.int64)  # ascending: those that have a voice and a spoken form
        self._names: Names = np.empty((0, 2), np.uint64)
        self._voices = np.empty(0, np.int32)
        self._spoken = pa.array([], pa.string())
        self._earlier = self._stand()

    def _stand(self) -> tuple[Rows, pa.Array]:
        """Takes over what the sidecars say, as far as the same voice would be asked to say the same today."""
        said, state = said_of(self.corpus, self.first), self.corpus.speech_state
        keep = np.full(len(said.at), state is not None and state.rules == SPOKEN_RULES)
        if state and state.cast != self.parts:
            then, now = (identities(parts, self._cast(parts, said.at)) for parts in (state.cast, self.parts))
            keep &= (then == now) & (now != "")
        self._dirty[self._owners(said.at[~keep])] = True
        for reason in said.reason.unique().drop_null().to_pylist():
            self.code[said.at[keep & _is(said.reason, reason)]] = self._number(reason)
        accepted = np.flatnonzero(keep & said.clip.is_valid().to_numpy(zero_copy_only=False))
        accepted = accepted[np.argsort(said.at[accepted])]
        self.code[said.at[accepted]] = ACCEPTED
        return said.at[accepted], said.clip.take(pa.array(accepted))

    def _owners(self, at: Rows) -> Rows:
        return np.searchsorted(self.first, at, "right") - 1

    def _cast(self, parts: tuple[Part, ...], at: Rows) -> npt.NDArray[np.int32]:
        rows = self._owners(at)
        return cast(parts, self.corpus.draws[rows], at - self.first[rows], self.languages(rows))

    def languages(self, rows: Rows) -> pa.Array:
        """The language of each row."""
        return pa.array(self.corpus.index["language"].combine_chunks().take(pa.array(rows)).cast(pa.string()))

    def _number(self, reason: str) -> int:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason)

    # --- towards a verdict

    def shards(self, at: Rows) -> Iterable[tuple[Shard, Rows, Bools]]:
        """The shards that hold these questions, which of the shard's they are, and the same as a mask."""
        count = len(self.corpus.state.shards)
        rows = np.searchsorted(self.corpus.shard, np.arange(count + 1))
        ends = np.append(self.first, len(self.speakable))[rows]
        for number, begin, end in zip(range(count), ends, ends[1:], strict=False):
            part = at[np.searchsorted(at, begin) : np.searchsorted(at, end)] - begin
            if len(part):
                mask = np.zeros(end - begin, np.bool_)
                mask[part] = True
                yield self.corpus.state.shards[number], part, mask

    def name(self, at: Rows, spoken: pa.Array, pool: Pool) -> None:
        """Gives questions their voices, and their clips a name."""
        voices = self._cast(self.parts, at)
        if len(mute := np.flatnonzero(voices < 0)):
            language = self.languages(self._owners(at[mute[:1]]))[0].as_py()
            raise BadVoices(f"pool '{pool.name}' has no voice for '{language}'")
        who = [part.identity for part in self.parts]
        texts = spoken.to_pylist()
        names = names_of(clip_name(who[voice], text) for voice, text in zip(voices.tolist(), texts, strict=True))
        named = np.concatenate([self.named, at])
        order = np.argsort(named, kind="stable")
        self.named = named[order]
        self._names = np.concatenate([self._names, names])[order]
        self._voices = np.concatenate([self._voices, voices])[order]
        self._spoken = pa.concat_arrays([self._spoken, spoken]).take(pa.array(order))

    def learn(self, at: Rows, book: Book) -> int:
        """Looks named questions up; how many are decided by that."""
        rows = book.find(self._names[np.searchsorted(self.named, at)])
        at, rows = at[rows >= 0], rows[rows >= 0]
        reasons = book.table["reason"].take(pa.array(rows)).combine_chunks()
        self.code[at] = ACCEPTED
        for reason in reasons.unique().drop_null().to_pylist():
            self.code[at[_is(reasons, reason)]] = self._number(reason)
        self._row[at] = rows
        self._dirty[self._owners(at)] = True
        return len(at)

    def orders(self, at: Rows) -> pa.Table:
        """What is to be said for named questions (ORDERS)."""
        which = np.searchsorted(self.named, at)
        return pa.table(
            {
                "clip": self.clips(at),
                "voice": self._voices[which],
                "spoken": self._spoken.take(pa.array(which)),
            },
            ORDERS,
        )

    def clips(self, at: Rows) -> list[str]:
        """The names of the clips of named questions."""
        digits = self._names[np.searchsorted(self.named, at)].astype(">u8").tobytes().hex()
        return [digits[begin : begin + 32] for begin in range(0, len(digits), 32)]

    # --- from verdicts to sidecars

    @property
    def changed(self) -> bool:
        """Whether the sidecars that stand are not what is decided."""
        state = self.corpus.speech_state
        standing = sum(shard.samples for shard in state.shards) if state else 0
        return bool(self._dirty.any()) or standing != np.count_nonzero(self._sidecar >= 0)

    def settle(self, book: Book) -> int:
        """Looks up what the sidecars have taken; how many questions are open again, their verdicts being gone."""
        at, clips = self._earlier
        rows = book.find(names_of(clips.to_pylist()))
        lost = at[rows < 0]
        self._row[at] = rows
        self.code[lost] = UNDECIDED
        self._dirty[self._owners(lost)] = True
        self._earlier = at[:0], clips[:0]
        return len(lost)

    def decisions(self, book: Book) -> Decisions:
        """All that is decided."""
        at = np.flatnonzero(self.code > UNDECIDED)
        owners = self._owners(at)
        rows, codes, table = self._row[at], self.code[at], book.table
        reasons = pa.array(self.reasons, pa.string())

        def verdicts(begin: int, end: int) -> pa.Table:
            mine, code = rows[begin:end], codes[begin:end]
            found = table.take(pa.array(mine, mask=mine < 0))
            said = reasons.take(pa.array(np.maximum(code, 0), mask=code < 0))
            return found.set_column(VERDICTS.get_field_index("reason"), "reason", said)

        turns = (at - self.first[owners]).astype(np.int32)
        return Decisions(owners, turns, verdicts, self._dirty, self._sidecar)


def _is(values: pa.Array, value: str) -> Bools:
    return np.asarray(pc.equal(values, value).fill_null(False).to_numpy(zero_copy_only=False), np.bool_)


class Walk:
    """One stage's walk over the questions of one corpus."""

    def __init__(self, stage: str, told: Told, quota: int, rows: Rows) -> None:
        self.stage, self.told, self.quota = stage, told, quota
        corpus = told.corpus
        order = walk(rows, corpus.draws, corpus.questions)
        at = told.first[order.rows] + order.turns
        self.at = at[told.speakable[at]]
        self.selected = len(at)
        self._rows = rows

    def due(self) -> Rows:
        """The questions to decide next: if all are accepted, the quota is met at this point of the walk."""
        codes = self.told.code[self.at]
        hoped = np.cumsum(codes < 0)
        end = int(np.searchsorted(hoped, self.quota)) + 1 if self.quota else 0
        return self.at[:end][codes[:end] == UNDECIDED]

    def report(self, pending: dict[str, str]) -> Spoken:
        """What it came to, and what it still waits for."""
        told, due = self.told, self.due()
        codes = told.code[self.at]
        chosen = self.at[heard(codes == ACCEPTED, codes == UNDECIDED, self.quota)[0]]
        named = due[np.isin(due, told.named)]
        waiting = [(at, pending[clip]) for at, clip in zip(named, told.clips(named), strict=True) if clip in pending]
        refused = Counter(told.reasons[code] for code in codes[codes >= 0].tolist())
        questions = told.corpus.questions[self._rows].astype(np.int64)
        every = {
            "selected": np.repeat(self._rows, questions),
            "speakable": told._owners(self.at),
            "spoken": told._owners(chosen),
            "refused": told._owners(self.at[codes >= 0]),
            "pending": told._owners(np.array([at for at, _ in waiting], np.int64)),
        }
        counts = {name: Counter(_counted(told.languages(rows))) for name, rows in every.items()}
        return Spoken(
            stage=self.stage,
            corpus=told.corpus.state.corpus.name,
            selected=self.selected,
            asked=self.quota,
            speakable=len(self.at),
            spoken=len(chosen),
            refused=dict(sorted(refused.items())),
            pending=dict(sorted(Counter(code for _, code in waiting).items())),
            languages={
                language: Share(**{name: count[language] for name, count in counts.items()})
                for language in sorted(counts["selected"])
            },
        )


def _counted(values: pa.Array) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in values.value_counts().to_pylist()}


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


# --- speaking -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speak:
    """Has embedded voices speak the orders of a script from row `begin` up to row `end`."""

    lake: str
    script: Script
    begin: int
    end: int
    record: str = ""

    def run(self) -> Any:
        """What came of it."""
        store, tallies = open_store(self.lake), dict[str, Tally]()
        with Sealer(store, self.script.pool) as sealer:
            for order in get_orders(store, self.script, self.begin, self.end):
                began = time.monotonic()
                speech = ask(order)
                tally = tallies.setdefault(order.voice.name, Tally())
                tally.asked += 1
                tally.waited += time.monotonic() - began
                if isinstance(speech, Refused):
                    tally.refused[speech.code] += 1
                else:
                    tally.accepted += 1
                    tally.audio += len(speech.samples) / speech.rate
                sealer.add(order, speech, 1)
        return {"pending": {}, "fault": None, "voices": fields(tallies)}


def _speak(
    orders: pa.Table, job: Job, servers: dict[str, Any], tallies: dict[str, Tally], pause: Callable[[int], float]
) -> bool:
    """Has the orders spoken, or as many as their time allows; False when nobody could decide anything any more."""
    store, workers = job.lake.store, job.workers
    engines = np.array([voice.engine for voice in job.pool.voices])[orders["voice"].to_numpy()]
    wanted = [job.pool.voices[number].name for number in np.unique(orders["voice"].to_numpy()).tolist()]
    for tasks in calibration_tasks(store, job.lake.url, job.pool, wanted, workers, pause):
        for _, result in workers.map(tasks, at_once=True):
            if result["fault"]:
                raise Unwell(*result["fault"])
    script = put_orders(store, job.pool, orders)
    at_home: list[Speak] = []
    abroad: list[Converse] = []
    for engine in np.unique(engines).tolist():
        begin, end = (int(np.searchsorted(engines, engine, side)) for side in ("left", "right"))
        if engine not in servers:
            at_home += [
                Speak(job.lake.url, script, first, min(first + SEGMENT, end)) for first in range(begin, end, SEGMENT)
            ]
            continue
        share = lanes(job.pool.endpoints[engine], workers, end - begin)
        edges = np.linspace(begin, end, len(share) + 1).astype(int).tolist()
        abroad += [
            Converse(job.lake.url, script, engine, first, last, endpoints, job.book.newest, pause)
            for endpoints, first, last in zip(share, edges, edges[1:], strict=False)
        ]
    before, faults = job.book.written, []
    hands = sum(len(task.endpoints) for task in abroad) or workers.workers
    try:
        with _Watch(job.book, len(orders), hands, quiet=job.quiet):
            for tasks, at_once in ((at_home, False), (abroad, True)):
                for _, result in workers.map(tasks, at_once=at_once):
                    job.pending |= result["pending"]
                    faults += [result["fault"]] if result["fault"] else []
                    _add(tallies, result["voices"])
    finally:
        store.delete(script.path)
    if faults and len(faults) == len(abroad):
        raise Unwell(*faults[-1])
    job.book.refresh()
    return job.book.written > before


def _add(tallies: dict[str, Tally], voices: dict[str, Any]) -> None:
    for name, counts in voices.items():
        tally = tallies.setdefault(name, Tally())
        for field in ("asked", "accepted", "audio", "waited"):
            setattr(tally, field, getattr(tally, field) + counts[field])
        tally.refused.update(counts["refused"])
        tally.unwell.update(counts["unwell"])


def _voiced(tallies: dict[str, Tally]) -> Iterable[Voiced]:
    loud, usual = standing_out(tallies)
    for name, tally in sorted(tallies.items()):
        yield Voiced(
            voice=name,
            asked=tally.asked,
            accepted=tally.accepted,
            refused=dict(sorted(tally.refused.items())),
            unwell=dict(sorted(tally.unwell.items())),
            hours=round(tally.audio / 3600, 4),
            working=round(tally.waited / tally.audio, 4) if tally.audio else 0.0,
            usual=round(usual, 4) if name in loud else None,
        )


class _Watch:
    """Tells how far the voices are, by what is sealed: whoever does the work, and wherever."""

    def __init__(self, book: Book, total: int, hands: int, *, quiet: bool) -> None:
        self._book, self._hands, self._quiet = book, hands, quiet
        self._progress = Progress("speak", "clips", quiet=quiet)
        self._progress.start(total)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._began = time.monotonic()
        self._audio = 0.0  # s
        self._refused: Counter[str] = Counter()

    def __enter__(self) -> Self:
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if not self._quiet:
            self._thread.join()
        self._progress.stop()

    def _work(self) -> None:
        while not self._ended.wait(WATCH):
            try:
                fresh = self._book.refresh()
            except TarsiaError:  # whoever needs it will say so
                continue
            self._audio += pc.sum(fresh["samples16"]).as_py() or 0
            self._refused.update(fresh["reason"].drop_null().to_pylist())
            if len(fresh):
                self._progress.step(len(fresh), self._note())

    def _note(self) -> str:
        seconds = self._audio / 16_000
        pace = (time.monotonic() - self._began) * self._hands / seconds if seconds else 0.0
        refused = ", ".join(f"{reason} {count:,}" for reason, count in self._refused.most_common(5))
        said = f"{seconds / 3600:.2f} h of speech, real-time factor {pace:.3f} on each of {self._hands}"
        return f"{said}, refused: {refused}" if refused else said

"""`tarsia speak`: voices ask about half of the questions that a recipe selects.

Per stage and corpus, the selected questions that can be spoken are walked in the order of their spoken draw until the
quota holds accepted clips. Each step of the walk asks only for what is still missing, so refusals are made up for and
nothing is spoken that no stage hears. What was decided goes into sidecar shards, beside the corpus's own and with the
same keys.

Embedded engines speak in the workers, servers are asked from this process (`pipelines.served`). Where a server fails,
its questions stay pending: they keep their place in the walk, and running the same command again asks for them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from tarsia.builders.clips import SEGMENT, Order, clip_bytes, speak_all, verdicts
from tarsia.builders.endpoints import Unwell
from tarsia.builders.fleet import pause as usual_pause
from tarsia.builders.hearing import settle
from tarsia.builders.lake import Lake
from tarsia.builders.shards import TarWriter, publish
from tarsia.builders.speech import spoken_form
from tarsia.builders.storage import open_store
from tarsia.builders.tables import get_table, get_tables
from tarsia.builders.voices import find
from tarsia.manifests.decide import Corpus, choose, questions_of
from tarsia.manifests.select import heard, walk
from tarsia.pipelines.plan import chosen_stages, load
from tarsia.pipelines.pool import Pool as Workers
from tarsia.pipelines.pool import finish
from tarsia.pipelines.progress import Progress
from tarsia.pipelines.served import Studio
from tarsia.schemas.corpus import CAP
from tarsia.schemas.errors import BadVoices, TarsiaError
from tarsia.schemas.identity import CIRCLE, canonical, digest, redraw
from tarsia.schemas.lake import FORMAT, Snapshot, SpeechState
from tarsia.schemas.model import Model
from tarsia.schemas.recipe import Recipe
from tarsia.schemas.shard import SPEECH, TEXT, Shard, leaves
from tarsia.schemas.voice import Check, Pool, Voice, clip_name


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


Decision = dict[str, Any]  # one question: its clip's verdict, or the reason of the refusal


def speak(
    recipe: Recipe,
    lake: Lake,
    pool: Pool,
    workers: Workers,
    *,
    only: Sequence[str] = (),
    quiet: bool = False,
    pause: Callable[[int], float] = usual_pause,
) -> list[Spoken]:
    """Has the pool speak what the stages of the recipe ask for, and publishes the sidecars.

    When the servers give up, what was decided is published before their error is raised. `pause` says how long a
    server is left alone after so many faults in a row.
    """
    snapshot = lake.snapshot()
    wanted = {name: recipe.stages[name] for name in chosen_stages(recipe, only) if recipe.stages[name].spoken}
    if not wanted:
        return []
    studio = Studio(lake.store, pool, pause=pause, quiet=quiet)  # tells what is wrong with the pool before all work
    settle(lake.store, pool)
    wanted_recipe = recipe.model_copy(update={"stages": wanted})
    corpora = load(snapshot, lake, wanted_recipe, workers, voices=pool.name, quiet=quiet)
    walks = [
        _Walk(name, corpus, ask.spoken or 0, rows)
        for name, stage in wanted.items()
        for corpus, ask, rows in choose(recipe, stage, corpora)
    ]
    caster = _Caster(pool)
    known = verdicts(lake.store, pool.name)
    decided: dict[str, dict[tuple[int, int], Decision]] = defaultdict(dict)
    pending: dict[str, Unwell] = {}
    stopped: TarsiaError | None = None
    with studio:
        while (orders := _missing(walks, decided, known, caster, lake)) and not stopped:
            ordered = sorted(orders.values())
            served = [order for order in ordered if studio.serves(order.voice) and order.clip not in pending]
            embedded = [order for order in ordered if not studio.serves(order.voice)]
            tasks = [
                Speak(lake.url, pool.name, tuple(embedded[begin : begin + SEGMENT]), pool.check)
                for begin in range(0, len(embedded), SEGMENT)
            ]
            try:
                if tasks:
                    finish(tasks, workers, Progress("speak", f"segments of {SEGMENT} clips", quiet=quiet))
                pending |= studio.speak(served) if served else {}
            except (Unwell, BadVoices) as error:
                stopped = error
            before, known = len(known), verdicts(lake.store, pool.name)
            if len(known) == before:
                break
    states = _sidecars(corpora, decided, pool.name, lake, workers, quiet)
    lake.publish(lambda newest: _with(newest, states))
    if stopped:
        raise stopped
    return [_report(walk, decided[walk.corpus.state.corpus.name], pending, caster, lake) for walk in walks]


def _report(
    walk: "_Walk",
    decided: dict[tuple[int, int], Decision],
    pending: dict[str, Unwell],
    caster: "_Caster",
    lake: Lake,
) -> Spoken:
    """What a walk came to, and what it still waits for."""
    report, due = walk.report(decided), walk.due(decided)
    if not due:
        return report
    clips = [order.clip for order in _orders(walk.corpus, due, caster, lake)]
    codes = Counter(pending[clip].code for clip in clips if clip in pending)
    return report.model_copy(update={"pending": dict(sorted(codes.items()))})


class _Walk:
    """One stage's walk over the questions of one corpus."""

    def __init__(self, stage: str, corpus: Corpus, quota: int, rows: Any) -> None:
        self.stage = stage
        self.corpus = corpus
        self.quota = quota
        order = walk(rows, corpus.draws, corpus.questions)
        asked = questions_of(corpus)
        speakable = asked.speakable[asked.first[order.rows] + order.turns]
        self.selected = len(speakable)
        self.turns = list(zip(order.rows[speakable].tolist(), order.turns[speakable].tolist(), strict=True))

    def due(self, decided: dict[tuple[int, int], Decision]) -> list[tuple[int, int]]:
        """The questions to decide next: if all are accepted, the quota is met at this point of the walk."""
        due, room = [], self.quota
        for turn in self.turns:
            if room == 0:
                break
            decision = decided.get(turn)
            if decision is None:
                due.append(turn)
            room -= decision is None or decision["reason"] is None
        return due

    def report(self, decided: dict[tuple[int, int], Decision]) -> Spoken:
        """What it came to."""
        mine = [decided[turn] for turn in self.turns if turn in decided]
        accepted = np.array([decision["reason"] is None for decision in mine], dtype=np.bool_)
        return Spoken(
            stage=self.stage,
            corpus=self.corpus.state.corpus.name,
            selected=self.selected,
            asked=self.quota,
            speakable=len(self.turns),
            spoken=len(heard(accepted, ~accepted, self.quota)[0]),
            refused=dict(Counter(decision["reason"] for decision in mine if decision["reason"])),
        )


class _Caster:
    """Gives each question a voice of its language, by draw, in proportion to the voices' shares."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._names: dict[str, str] = {}

    def cast(self, draw: int, turn: int, language: str) -> Voice:
        """The voice of one question."""
        able = [voice for voice in self._pool.voices if voice.language == language]
        if not able:
            raise BadVoices(f"pool '{self._pool.name}' has no voice for '{language}'")
        point = Fraction(redraw(draw, "voice", turn), CIRCLE) * sum(Fraction(voice.share) for voice in able)
        for voice in able[:-1]:
            point -= Fraction(voice.share)
            if point < 0:
                return voice
        return able[-1]

    def clip(self, voice: Voice, spoken: str) -> str:
        """The name of a clip."""
        if voice.name not in self._names:
            self._names[voice.name] = voice.identity(find(voice.engine, f"voice '{voice.name}'").version())
        return clip_name(self._names[voice.name], spoken)


def _missing(
    walks: list[_Walk],
    decided: dict[str, dict[tuple[int, int], Decision]],
    known: dict[str, Decision],
    caster: _Caster,
    lake: Lake,
) -> dict[str, Order]:
    """Decides what is known already; the clips that must be made before the walks can go on."""
    orders: dict[str, Order] = {}
    for one in walks:
        name = one.corpus.state.corpus.name
        while due := one.due(decided[name]):
            before = len(decided[name])
            for turn, order in zip(due, _orders(one.corpus, due, caster, lake), strict=True):
                if order.clip in known:
                    decided[name][turn] = known[order.clip]
                else:
                    orders[order.clip] = order
            if len(decided[name]) == before:
                break
    return orders


def _orders(corpus: Corpus, due: Sequence[tuple[int, int]], caster: _Caster, lake: Lake) -> Iterator[Order]:
    """What the voices are to say: the text of each question, from the shard that holds it."""
    shards = corpus.shard[[row for row, _ in due]]
    firsts = np.searchsorted(corpus.shard, np.arange(len(corpus.state.shards)))
    texts = {
        int(number): get_table(lake.store, corpus.state.shards[number].text, TEXT.names)["conversations"]
        for number in np.unique(shards)
    }
    draws, languages = corpus.draws, corpus.index["language"]
    for (row, turn), number in zip(due, shards.tolist(), strict=True):
        said = texts[number][row - int(firsts[number])].as_py()
        question = [part["value"] for part in said if part["from"] == "human"][turn]
        voice = caster.cast(int(draws[row]), turn, languages[row].as_py())
        spoken = spoken_form(question, languages[row].as_py())
        yield Order(caster.clip(voice, spoken), voice, spoken)


@dataclass(frozen=True)
class Speak:
    """Makes one segment of clips."""

    lake: str
    pool: str
    orders: tuple[Order, ...]
    check: Check | None = None

    @property
    def record(self) -> str:
        """By the clips asked for."""
        return f"commits/clips/{self.pool}/{digest(' '.join(order.clip for order in self.orders).encode())[:32]}.json"

    def run(self) -> Any:
        """How many of how many were accepted."""
        return {
            "asked": len(self.orders),
            "accepted": speak_all(open_store(self.lake), self.pool, self.orders, check=self.check),
        }


# --- sidecars -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sidecar:
    """Writes one leaf of a corpus's speech: `rows` say, for each sample, what was decided of its questions."""

    lake: str
    pool: str
    corpus: str
    leaf: str
    rows: tuple[Any, ...]
    record: str

    def run(self) -> Any:
        """The committed shard."""
        store = open_store(self.lake)
        index = []
        with store.spool() as file:
            tar = TarWriter(file)
            for key, draw, record, decisions in self.rows:
                clips, members = [], []
                for turn, verdict in decisions:
                    if verdict["reason"] is not None:
                        continue
                    member = f"q{turn}.flac"
                    members.append((member, clip_bytes(store, verdict)))
                    facts = {name: verdict[name] for name in ("clip", "engine", "voice", "spoken")}
                    sizes = {name: verdict[name] for name in ("samples", "rate", "samples16")}
                    clips.append({"turn": turn, "member": member, **facts, **sizes})
                if clips:
                    members.append(("json", canonical({"key": key, "clips": clips})))
                where = tar.add(key, members)
                refused = [
                    {"turn": turn, "reason": verdict["reason"]} for turn, verdict in decisions if verdict["reason"]
                ]
                index.append({"key": key, "draw": draw, "record": record, "clips": clips, "refused": refused})
                index[-1] |= {"offset": where.offset, "length": where.length, "checksum": where.checksum}
            table = pa.Table.from_pylist(index, SPEECH)
            path = f"speech/{self.pool}/{self.corpus}/{self.leaf}"
            objects = publish(store, path, file, tar.close(), tar.bytes, [(".parquet", table)])
        questions = sum(len(row["clips"]) for row in index)
        return Shard(leaf=self.leaf, samples=len(index), questions=questions, objects=objects).model_dump(mode="json")


def _sidecars(
    corpora: Sequence[Corpus],
    decided: dict[str, dict[tuple[int, int], Decision]],
    pool: str,
    lake: Lake,
    workers: Workers,
    quiet: bool,
) -> list[SpeechState]:
    tasks: list[Sidecar] = []
    counts = []
    for corpus in corpora:
        mine = list(_leaf_tasks(corpus, decided[corpus.state.corpus.name], pool, lake))
        counts.append((corpus.state.corpus.name, len(mine)))
        tasks += mine
    results = iter(finish(tasks, workers, Progress("sidecars", "shards", quiet=quiet)))
    return [
        SpeechState(pool=pool, corpus=name, shards=tuple(Shard.model_validate(next(results)) for _ in range(count)))
        for name, count in counts
    ]


def _leaf_tasks(corpus: Corpus, decided: dict[tuple[int, int], Decision], pool: str, lake: Lake) -> Iterator[Sidecar]:
    """Leaves over all samples with a decision: this run's, and earlier ones of samples that have not changed."""
    rows = _earlier(corpus, lake)
    for (row, turn), verdict in decided.items():
        rows.setdefault(row, {})[turn] = verdict
    keys, records, draws = corpus.index["key"], corpus.index["record"], corpus.draws
    order = sorted(rows)
    name = corpus.state.corpus.name
    for leaf in leaves(draws[order], CAP):
        content = tuple(
            (keys[row].as_py(), int(draws[row]), records[row].as_py(), tuple(sorted(rows[row].items())))
            for row in order[leaf.begin : leaf.end]
        )
        inputs = digest(canonical([FORMAT, pool, leaf.name, content]))[:16]
        yield Sidecar(
            lake.url, pool, name, leaf.name, content, f"commits/speech/{pool}/{name}/{leaf.name}-{inputs}.json"
        )


def _earlier(corpus: Corpus, lake: Lake) -> dict[int, dict[int, Decision]]:
    """What the sidecars that stand say of samples that have not changed since."""
    if corpus.speech_state is None or corpus.speech is None:
        return {}
    known = verdicts(lake.store, corpus.speech_state.pool)
    full = get_tables(lake.store, (shard.index for shard in corpus.speech_state.shards), SPEECH, SPEECH.names)
    rows: dict[int, dict[int, Decision]] = {}
    for row, sidecar in enumerate(questions_of(corpus).sidecar.tolist()):
        if sidecar < 0:
            continue
        said = full.slice(sidecar, 1).to_pylist()[0]
        rows[row] = {clip["turn"]: known[clip["clip"]] for clip in said["clips"]}
        rows[row] |= {one["turn"]: {"reason": one["reason"]} for one in said["refused"]}
    return rows


def _with(snapshot: Snapshot, states: list[SpeechState]) -> Snapshot:
    mine = {(state.pool, state.corpus) for state in states}
    kept = [state for state in snapshot.speech if (state.pool, state.corpus) not in mine]
    full = [state for state in states if state.shards]
    return snapshot.model_copy(
        update={"speech": tuple(sorted([*kept, *full], key=lambda state: (state.pool, state.corpus)))}
    )

"""What a stage selects of each corpus, what of it is heard, and what it then costs: the decisions of a plan.

`speak` asks the same functions what to synthesise, so a plan never hears a question that nobody was asked to speak.
Everything here is arithmetic on the tables of a snapshot, column by column: a stage may have twenty million samples.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.chat import prompt_of
from tarsia.builders.columns import Words, many, whole, words
from tarsia.builders.tables import plain
from tarsia.builders.tokens import TILE_TOKENS, audio_tokens
from tarsia.manifests.select import Rows, arc, divide, heard, reach, walk
from tarsia.schemas.errors import BadRecipe, Pending, UnknownName
from tarsia.schemas.identity import Draws
from tarsia.schemas.lake import CorpusState, Snapshot, SpeechState
from tarsia.schemas.manifest import Ask
from tarsia.schemas.recipe import Context, Recipe, Stage, Take
from tarsia.schemas.sample import MADE, Kind, unsaid
from tarsia.schemas.shard import INDEX, SPEECH

Bools = npt.NDArray[np.bool_]
Int32s = npt.NDArray[np.int32]

_BYTES, _FEW = pa.binary(16), pa.dictionary(pa.int16(), pa.string())


def lean(fields: Iterable[pa.Field]) -> pa.Schema:
    """The fields as plans hold them, thirty million rows at once: hex digits as bytes, names as short codes."""
    types = {"key": _BYTES, "record": _BYTES, **dict.fromkeys(("corpus", "kind", "language", "modality"), _FEW)}
    return pa.schema([field.with_type(types.get(field.name, field.type)) for field in fields])


def _lean(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    return lean(schema.field(name) for name in columns)


def _list_of(schema: pa.Schema, name: str, *fields: str) -> pa.Field:
    """A list of structs of which only some fields are read."""
    kind = schema.field(name).type.value_type
    return pa.field(name, pa.list_(pa.struct([kind.field(field) for field in fields])))


#: What is read of the tables of a lake: to plan, and (`SPEAKING`, `SAID`) to speak.
SAMPLES_OF = _lean(INDEX, ("key", "language", "modality", "questions", "offset", "length", "checksum"))
SPEAKING = SAMPLES_OF.append(pa.field("record", _BYTES))
SAID = _lean(SPEECH, ("key", "record", "clips", "refused", "offset", "length", "checksum"))
VERDICTS_OF = SAID.set(2, _list_of(SPEECH, "clips", "turn", "samples16")).set(3, _list_of(SPEECH, "refused", "turn"))


class Corpus(NamedTuple):
    """What planning reads of one corpus; rows are in draw order, `shard` numbers its tars from 0.

    `speech` has the sidecars' rows, with the `row` of the sample that each was said for: -1 where none stands there any
    more, or another record does.
    """

    state: CorpusState
    index: pa.Table
    shard: Int32s
    costs: pa.Table
    speech_state: SpeechState | None
    speech: pa.Table | None
    speech_shard: Int32s

    @property
    def draws(self) -> Draws:
        """The draws, sorted."""
        return self.words[:, 0].astype(np.uint64)

    @property
    def words(self) -> Words:
        """The two halves of each key."""
        return words(whole(self.index["key"]))

    @property
    def questions(self) -> Int32s:
        """Human turns of each sample."""
        return cast(Int32s, column(self.index, "questions"))

    @property
    def stands(self) -> Bools:
        """Which samples were not taken down."""
        return np.asarray(column(self.index, "length") > 0)

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Audio of each sample as it stands in the corpus."""
        return cast(npt.NDArray[np.float64], column(self.costs, "seconds"))

    @property
    def unsaid(self) -> Bools:
        """The samples that train nothing until a voice has said them."""
        kind, modality = self.state.corpus.kind, whole(self.index["modality"])
        if kind not in MADE or not len(modality):
            return np.broadcast_to(np.False_, len(self.index))
        wanting = np.array([unsaid(kind, name) for name in modality.dictionary.to_pylist()], np.bool_)
        return np.asarray(wanting[plain(modality.indices)])

    @property
    def lasting(self) -> npt.NDArray[np.float64]:
        """The same seconds, and those of the clips that were made of what had no sound."""
        unsaid = self.unsaid
        if not unsaid.any():
            return self.seconds
        asked = questions_of(self)
        made = np.maximum(asked.samples16[asked.first], 0) / 16_000
        return np.asarray(self.seconds + np.where(unsaid, made, 0.0))


def column(table: Any, name: str) -> Any:
    """A column of numbers without nulls, of whatever has columns, as a numpy array."""
    return plain(whole(table.column(name)))


def refuse_unknown(recipe: Recipe, snapshot: Snapshot) -> None:
    """`UserError` where a take names a corpus or a tag that the lake does not have."""
    every = {state.corpus.name: state.corpus for state in snapshot.corpora}
    tags = {tag for corpus in every.values() for tag in corpus.tags}
    for name, stage in recipe.stages.items():
        for take in stage.takes:
            for known, what, said in (every, "corpus", take.corpus), (tags, "tag", take.tag):
                for one in said:
                    if one not in known:
                        raise UnknownName(what, one, known, f"stage {name}: take {take}")
            for one in take.corpus:
                if not take.wants(every[one]):
                    corpus = every[one]
                    tagged = f" and its tags are {', '.join(corpus.tags) or 'none'}" if take.tag else ""
                    raise BadRecipe(f"stage {name}: take {take}: corpus '{one}' is of kind {corpus.kind.value}{tagged}")


def choose(recipe: Recipe, stage: Stage, corpora: Sequence[Corpus]) -> list[tuple[Corpus, Ask, Rows]]:
    """The selected rows of every corpus that the stage asks for, in the order of its arc, with the ask."""
    chosen = []
    admitted = {corpus.state.corpus.name: _admitted(stage, corpus) for corpus in corpora}
    for number, one in enumerate(stage.takes):
        mine = [corpus for corpus in corpora if number in admitted[corpus.state.corpus.name]]
        pools = [admitted[corpus.state.corpus.name][number] for corpus in mine]
        if one.amount.unit == "tokens" and (unsaid := [it.state.corpus.name for it in mine if it.unsaid.any()]):
            raise BadRecipe(
                f"take {one}: how many tokens '{unsaid[0]}' has is not known before it is said; take samples"
            )
        sizes = [_sizes(corpus, pool, one.amount.unit) for corpus, pool in zip(mine, pools, strict=True)]
        parts = _asked(one, sizes) if one.amount.unit != "h" else _hours(one, mine, pools)
        for corpus, pool, size, asked in zip(mine, pools, sizes, parts, strict=True):
            rows = _taken(one, recipe.seed, corpus.draws if pool is None else corpus.draws[pool], size, asked)
            rows = rows if pool is None else pool[rows]
            ask = Ask(
                corpus=corpus.state.corpus.name,
                kind=one.kind,
                take=number,
                amount=str(one.amount),
                available=len(corpus.index) if pool is None else len(pool),
                available_seconds=round(float((corpus.seconds if pool is None else corpus.seconds[pool]).sum()), 6),
                spoken=_to_hear(stage, corpus, rows),
                **_in_its_unit(one.amount.unit, size, asked),
            )
            chosen.append((corpus, ask, rows))
    return chosen


def circle(recipe: Recipe, stage: Stage, take: int, corpus: Corpus) -> Rows:
    """All rows of a corpus that a take admits, in the order of their arc."""
    pool = _admitted(stage, corpus)[take]
    draws = corpus.draws if pool is None else corpus.draws[pool]
    rows = arc(draws, recipe.seed, len(draws))
    return rows if pool is None else pool[rows]


def _to_hear(stage: Stage, corpus: Corpus, rows: Rows) -> int | None:
    """How many of the selected questions are to be heard: a share of all, or whatever is nothing without a voice."""
    if corpus.state.corpus.kind not in MADE:
        return stage.spoken.of(int((corpus.questions * corpus.stands)[rows].sum())) if stage.spoken else None
    made = int(np.count_nonzero((corpus.unsaid & corpus.stands)[rows]))
    return made if made or stage.spoken else None


def _admitted(stage: Stage, corpus: Corpus) -> dict[int, Rows | None]:
    """The rows of a corpus that each take of the stage admits and none before it did; None stands for all of them."""
    takes = list(stage.admitted(corpus.state.corpus))
    if not takes or not len(corpus.index) or not (takes[0][1].language or takes[0][1].modality):
        return {number: None for number, _ in takes[:1]}
    group, names = groups(corpus.index)
    admitted: dict[int, Rows | None] = {}
    taken = np.zeros(len(names), np.bool_)
    for number, take in takes:
        fresh = np.array([take.admits(*name) for name in names], np.bool_) & ~taken
        taken |= fresh
        if fresh.any():
            admitted[number] = None if fresh.all() else np.flatnonzero(fresh[group])
    return admitted


def groups(samples: pa.Table) -> tuple[Int32s, list[tuple[str, str]]]:
    """For each sample the number of its language and modality, and these by their number."""
    languages, modalities = (whole(samples[name]) for name in ("language", "modality"))
    width = max(1, len(modalities.dictionary))
    pairs = plain(languages.indices) * np.int32(width) + plain(modalities.indices)
    found = np.flatnonzero(np.bincount(pairs, minlength=1))
    number = np.zeros(int(pairs.max(initial=0)) + 1, np.int32)
    number[found] = np.arange(len(found))
    named = [languages.dictionary.to_pylist(), modalities.dictionary.to_pylist()]
    return number[pairs], [(named[0][pair // width], named[1][pair % width]) for pair in found.tolist()]


def _sizes(corpus: Corpus, pool: Rows | None, unit: str) -> npt.NDArray[Any] | int:
    """What an amount counts in each admitted sample; for samples themselves, how many there are."""
    if unit in ("%", "samples"):
        return len(corpus.index) if pool is None else len(pool)
    if unit == "tokens":
        return _read(corpus.costs if pool is None else picked(corpus.costs, pool))
    sizes: npt.NDArray[Any] = corpus.lasting if unit == "h" else corpus.questions
    return sizes if pool is None else sizes[pool]


def _read(costs: pa.Table) -> Rows:
    """The tokens of each sample when all of it is read, without a system prompt."""
    tiles, frames, audio = (column(costs, name).astype(np.int64) for name in ("tiles", "frames", "audio_tokens"))
    read = column(costs, "answers") + _sums(whole(costs.column("read")))
    return np.asarray(read + TILE_TOKENS * (tiles + frames) + audio)


def _asked(take: Take, sizes: Sequence[npt.NDArray[Any] | int]) -> list[int | float]:
    """What a take asks of each corpus: a share of all, or its part of a number of samples, questions, tokens.

    Numbers are divided exactly, in proportion to what each corpus has of the same.
    """
    amount = take.amount
    if amount.unit == "%":
        most = take.cap.number if take.cap else float("inf")
        return [int(min(amount.of(int(count)), most)) for count in sizes]
    return list(divide(int(amount.number), [int(np.sum(size)) for size in sizes]))


def _hours(take: Take, corpora: Sequence[Corpus], pools: Sequence[Rows | None]) -> list[int | float]:
    """The seconds asked of each corpus: what stands ready comes first, in proportion to what each has of it.

    Where that is too little, voices make the rest, in proportion to the samples that each corpus has no sound of. How
    long these will be nobody knows before; so no part depends on what was made already.
    """
    seconds = float(take.amount.number * 3600)
    ready = [
        float((one.seconds if pool is None else one.seconds[pool]).sum())
        for one, pool in zip(corpora, pools, strict=True)
    ]
    unsaid = [
        int((one.unsaid if pool is None else one.unsaid[pool]).sum()) for one, pool in zip(corpora, pools, strict=True)
    ]
    total, made = sum(ready), sum(unsaid)
    if total >= seconds or not made:
        return [seconds * own / total if total else 0.0 for own in ready]
    return [own + (seconds - total) * count / made for own, count in zip(ready, unsaid, strict=True)]


def _taken(take: Take, seed: int, draws: Draws, size: npt.NDArray[Any] | int, asked: int | float) -> Rows:
    """Places in the circle of the admitted samples, in the order of their arc."""
    unit = take.amount.unit
    if unit == "%":
        return arc(draws, seed, int(asked), take.amount.skipped(len(draws)))
    if unit == "samples":
        return arc(draws, seed, min(int(asked), len(draws)))
    return reach(draws, seed, np.asarray(size), asked)


def _in_its_unit(unit: str, size: npt.NDArray[Any] | int, asked: int | float) -> dict[str, Any]:
    """The fields of an ask that say how much was asked, and of how much where the ask does not say so anyway."""
    if unit in ("%", "samples"):
        return {"samples": asked}
    if unit == "h":
        return {"seconds": round(asked, 6)}
    return {unit: asked, f"available_{unit}": int(np.sum(size))}


class Selected(NamedTuple):
    """The selected rows of one corpus, in the order of its arc, with what each costs in the stage."""

    corpus: Corpus
    ask: Ask
    rows: Rows
    tokens: Int32s
    audio: pa.ChunkedArray | pa.Array  # tokens
    seconds: pa.ChunkedArray | pa.Array
    hearing: "Hearing"


def decide(
    corpus: Corpus, ask: Ask, rows: Rows, context: Context, prompts: Mapping[str, int], *, pending_as_text: bool
) -> Selected:
    """What of the selected questions is heard, and what every selected sample costs.

    `prompts`: tokens of each system prompt, for samples that carry their own.
    """
    if context.interleave and ask.kind is Kind.TTS and ask.spoken:
        raise BadRecipe(
            f"corpus '{ask.corpus}' has {ask.spoken} samples without a sound: interleave needs sounds that stand ready"
        )
    silent = ask.spoken is None
    hearing = _silence(rows) if silent else _hearing(corpus, ask, rows, context, pending_as_text=pending_as_text)
    costs = picked(corpus.costs, rows)
    audio, seconds = costs["audio_tokens"], costs["seconds"]  # views, as long as nothing is added
    if not silent:
        audio = pa.array((plain(whole(audio)) + hearing.audio).astype(np.int32))
        seconds = pa.array(plain(whole(seconds)) + hearing.samples16 / 16_000)
    tokens = _read(costs) + hearing.tokens
    if context.prompt == "sample":
        tokens += seen(picked(corpus.index, rows), prompts)
    if context.guide:
        tokens += context.guide * (plain(whole(audio)) > 0)
    return Selected(corpus, ask, rows, tokens.astype(np.int32), audio, seconds, hearing)


def seen(samples: pa.Table, prompts: Mapping[str, int]) -> Int32s:
    """For each sample, the tokens of the system prompt that goes with its media."""
    modality = whole(samples["modality"])
    named = [prompts[prompt_of([name])] for name in modality.dictionary.to_pylist()]
    return np.asarray(np.array(named, np.int32)[plain(modality.indices)])


def picked(table: pa.Table, rows: Rows) -> pa.Table:
    """Some rows of a table. An arc is one run of rows, or two: a view that copies nothing."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    if len(breaks) > 1:
        return table.take(pa.array(rows))
    runs = [run for run in np.split(rows, breaks) if len(run)]
    return pa.concat_tables([table.slice(0, 0), *(table.slice(int(run[0]), len(run)) for run in runs)])


def _sums(lists: pa.ListArray) -> Rows:
    """The sum of each list."""
    ends = plain(lists.offsets)
    reached = np.concatenate([[0], np.cumsum(plain(lists.values)[ends[0] : ends[-1]], dtype=np.int64)])
    return np.asarray(np.diff(reached[ends - ends[0]]))


# --- what is heard --------------------------------------------------------------------------------------------------


class Questions(NamedTuple):
    """All questions of a corpus, flat: question `turn` of row `row` is at `first[row] + turn`."""

    first: Rows
    read: Int32s
    heard: Int32s
    speakable: Bools
    samples16: Rows  # of an accepted clip, else -1
    refused: Bools
    sidecar: Rows  # for each row: its row in the sidecar index, or -1


def questions_of(corpus: Corpus) -> Questions:
    """Costs and verdicts of every question of a corpus."""
    read, heard, speakable = (whole(corpus.costs[name]) for name in ("read", "heard", "speakable"))
    asked = Questions(
        first=plain(read.offsets).astype(np.int64)[:-1],
        read=plain(read.values),
        heard=plain(heard.values),
        speakable=speakable.values.to_numpy(zero_copy_only=False),
        samples16=np.full(len(read.values), -1, dtype=np.int64),
        refused=np.zeros(len(read.values), dtype=np.bool_),
        sidecar=np.full(len(corpus.index), -1, dtype=np.int64),
    )
    if corpus.speech is not None and len(corpus.speech):
        rows = column(corpus.speech, "row")
        fresh = rows >= 0
        asked.sidecar[rows[fresh]] = np.flatnonzero(fresh)
        for name in ("clips", "refused"):
            lists = whole(corpus.speech[name])
            parents, items = pc.list_parent_indices(lists).to_numpy(), lists.flatten()
            keep = fresh[parents]
            turns = pc.struct_field(items, "turn").to_numpy()[keep]
            at = asked.first[rows[parents[keep]]] + turns
            if name == "clips":
                asked.samples16[at] = pc.struct_field(items, "samples16").to_numpy()[keep]
            else:
                asked.refused[at] = True
    return asked


class Said(NamedTuple):
    """What the sidecars of a corpus say of questions that have not changed since, question by question."""

    at: Rows  # where the question stands among all of the corpus
    clip: pa.Array  # the name of its clip; null: refused
    reason: pa.Array  # of the refusal; null: accepted


def said_of(corpus: Corpus, first: Rows) -> Said:
    """The decisions that stand; `first` is where each sample's questions begin."""
    parts = [Said(np.empty(0, np.int64), pa.array([], pa.string()), pa.array([], pa.string()))]
    if corpus.speech is not None and len(corpus.speech):
        rows = column(corpus.speech, "row")
        fresh = rows >= 0
        for name, field in (("clips", "clip"), ("refused", "reason")):
            lists = whole(corpus.speech[name])
            parents, items = pc.list_parent_indices(lists).to_numpy(), lists.flatten()
            items, parents = items.filter(pa.array(fresh[parents])), parents[fresh[parents]]
            at = first[rows[parents]] + pc.struct_field(items, "turn").to_numpy()
            said, none = pc.struct_field(items, field), pa.nulls(len(items), pa.string())
            parts.append(Said(at, said, none) if name == "clips" else Said(at, none, said))
    at, clip, reason = zip(*parts, strict=True)
    return Said(np.concatenate(at), pa.concat_arrays(clip), pa.concat_arrays(reason))


class Hearing(NamedTuple):
    """What becomes of the questions of selected samples, one entry a sample."""

    spoken: pa.ListArray | pa.ChunkedArray  # the turns that are heard, ascending
    tokens: Rows  # by which the sample is longer than when all is read, audio included
    audio: Rows  # tokens
    samples16: Rows
    speakable: Rows  # questions
    refused: Rows
    pending: Rows
    sidecar: Rows  # row of the sidecar index, -1 where nothing is heard
    waiting: int  # questions that a voice would have to say first, if it refused none


def mute(one: Selected) -> Bools:
    """Which selected samples are nothing, since no voice has said them."""
    return np.asarray(one.corpus.unsaid[one.rows] & (plain(whole(pc.list_value_length(one.hearing.spoken))) == 0))


def _silence(rows: Rows) -> Hearing:
    """Nothing is heard; the zeros are one zero, said many times."""
    none = np.broadcast_to(np.int64(0), len(rows))
    nothing = many(_grouped(np.zeros(1, np.int64), none[:0]), len(rows))
    return Hearing(nothing, none, none, none, none, none, none, np.broadcast_to(np.int64(-1), len(rows)), 0)


def _hearing(corpus: Corpus, ask: Ask, rows: Rows, context: Context, *, pending_as_text: bool) -> Hearing:
    """The accepted questions that the walk meets first, as many as asked."""
    asked, order = questions_of(corpus), walk(rows, corpus.draws, corpus.questions)
    slots, at = order.places, asked.first[order.rows] + order.turns
    speakable = asked.speakable[at]
    refused = speakable & asked.refused[at]
    accepted = speakable & (asked.samples16[at] >= 0)
    undecided = speakable & ~accepted & ~refused
    chosen, waiting = heard(accepted, undecided, ask.spoken or 0)
    if waiting and not pending_as_text:
        raise Pending(
            f"corpus '{ask.corpus}': {waiting} questions that may be spoken have no verdict yet; "
            "run tarsia speak, or plan with --pending-as-text"
        )

    def by_sample(values: npt.NDArray[Any], of: Rows) -> Rows:
        return np.bincount(of, values, len(rows)).astype(np.int64)

    at, owners, turns = at[chosen], slots[chosen], order.turns[chosen]
    samples16, counts = asked.samples16[at], np.bincount(owners, minlength=len(rows))
    audio = _audio_tokens(samples16, context)
    return Hearing(
        spoken=_grouped(counts, turns[np.lexsort((turns, owners))]),
        tokens=by_sample(audio + asked.heard[at] - asked.read[at], owners),
        audio=by_sample(audio, owners),
        samples16=by_sample(samples16, owners),
        speakable=by_sample(speakable, slots),
        refused=by_sample(refused, slots),
        pending=by_sample(undecided, slots),
        sidecar=np.where(counts > 0, asked.sidecar[rows], -1),
        waiting=heard(accepted | undecided, undecided, ask.spoken or 0)[1] if waiting else 0,
    )


def _grouped(counts: Rows, values: npt.NDArray[Any]) -> pa.ListArray:
    """Values as lists of so many each."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.astype(np.int32)))


def _audio_tokens(samples16: Rows, context: Context) -> Rows:
    """`audio_tokens` of many lengths, each different one computed once."""
    lengths, which = np.unique(samples16, return_inverse=True)
    return np.array([audio_tokens(length, context.audio) for length in lengths.tolist()], np.int64)[which]

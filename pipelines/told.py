"""What is decided of a corpus's questions, and how far the walks of the stages have come over them.

A question is named by its place among all of the corpus, and what is known of it stands in columns: a stage may walk
over twenty million. Nothing here asks a voice or writes.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.clips import ORDERS, Book, Names, clips_of, names_in, names_of
from tarsia.builders.speech import SPOKEN_RULES
from tarsia.manifests.cast import cast, identities
from tarsia.manifests.facts import Bools, Corpus
from tarsia.manifests.hearing import questions_of, said_of
from tarsia.manifests.select import Rows, heard, walk
from tarsia.pipelines.sidecars import Decisions
from tarsia.schemas.errors import BadVoices
from tarsia.schemas.model import Model
from tarsia.schemas.sample import Kind
from tarsia.schemas.shard import Shard
from tarsia.schemas.voice import VERDICTS, Part, clip_name

UNDECIDED, ACCEPTED = -2, -1  # else the number of a reason
LONGEST = 25.0  # s of speech that VITA-1.5's decoder can learn: 1,000 codes
USUAL = 4.0  # s of a clip, before any is made
_MANY = 1 << 16  # names that are made at one go


class Share(Model):
    """Questions of one language."""

    seconds: float = 0.0  # of what was made because it had no sound

    selected: int
    speakable: int
    spoken: int
    refused: int
    missing: int  # undecided, though the quota waits for them
    pending: int  # of those, the ones that servers failed


class Spoken(Model):
    """What speaking came to, for one stage and corpus. Counts are questions; seconds, of noise and text-to-speech only.

    Where hours are asked, `asked` is as many samples as these take, as far as that is known.
    """

    stage: str
    corpus: str
    kind: Kind
    asked_seconds: float | None = None
    seconds: float = 0.0
    selected: int
    asked: int
    speakable: int
    spoken: int
    refused: dict[str, int]
    missing: int = 0  # undecided, though the quota waits for them
    pending: dict[str, int] = {}  # of those, the ones that servers failed, by what they failed with
    languages: dict[str, Share]


class Told:
    """One corpus, and what is decided of its questions. A question is named by its place among all of the corpus."""

    def __init__(self, corpus: Corpus, pool: str, parts: tuple[Part, ...]) -> None:
        self.corpus = corpus
        self.parts = parts
        self._pool = pool
        asked = questions_of(corpus)
        self.first, self.speakable, self._sidecar = asked.first, asked.speakable, asked.sidecar
        self.unsaid = corpus.unsaid
        self.samples16 = asked.samples16 if self.unsaid.any() else None  # of accepted clips, where they count
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
        self._dirty[self.owners(said.at[~keep])] = True
        for reason in said.reason.unique().drop_null().to_pylist():
            self.code[said.at[keep & _is(said.reason, reason)]] = self._number(reason)
        accepted = np.flatnonzero(keep & said.clip.is_valid().to_numpy(zero_copy_only=False))
        accepted = accepted[np.argsort(said.at[accepted])]
        self.code[said.at[accepted]] = ACCEPTED
        return said.at[accepted], said.clip.take(pa.array(accepted))

    def owners(self, at: Rows) -> Rows:
        """The rows of the samples that questions belong to."""
        rows: Rows = np.asarray(np.searchsorted(self.first, at, "right") - 1)
        return rows

    def cast(self, at: Rows) -> npt.NDArray[np.int32]:
        """The number of each question's voice in the pool. `BadVoices` if there is none for its language."""
        voices = self._cast(self.parts, at)
        if len(mute := np.flatnonzero(voices < 0)):
            language = self.languages(self.owners(at[mute[:1]]))[0].as_py()
            raise BadVoices(f"pool '{self._pool}' has no voice for '{language}'")
        return voices

    def _cast(self, parts: tuple[Part, ...], at: Rows) -> npt.NDArray[np.int32]:
        rows = self.owners(at)
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

    def name(self, at: Rows, spoken: pa.Array) -> None:
        """Gives questions their voices, and their clips a name."""
        voices = self.cast(at)
        who = [part.identity for part in self.parts]
        names = [
            names_of(
                clip_name(who[voice], text.as_py())
                for voice, text in zip(
                    voices[begin : begin + _MANY].tolist(), spoken[begin : begin + _MANY], strict=True
                )
            )
            for begin in range(0, len(at), _MANY)
        ]
        named = np.concatenate([self.named, at])
        order = np.argsort(named, kind="stable")
        self.named = named[order]
        self._names = np.concatenate([self._names, *names])[order]
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
        if self.samples16 is not None:
            self.samples16[at] = book.table["samples16"].take(pa.array(rows)).fill_null(0).to_numpy()
            if self.corpus.state.corpus.kind is Kind.TTS:
                self.code[at[(self.code[at] == ACCEPTED) & (self.samples16[at] > LONGEST * 16_000)]] = self._number(
                    "long"
                )
        self._row[at] = rows
        self._dirty[self.owners(at)] = True
        return len(at)

    def lasting(self, at: Rows) -> npt.NDArray[np.float64]:
        """Seconds of the clips of questions, 0 where there is none or where they do not count."""
        if self.samples16 is None:
            return np.zeros(len(at))
        made = (self.code[at] == ACCEPTED) & self.unsaid[self.owners(at)]
        return np.asarray(np.where(made, self.samples16[at], 0) / 16_000)

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

    def clips(self, at: Rows) -> pa.Array:
        """The names of the clips of named questions."""
        return clips_of(self._names[np.searchsorted(self.named, at)])

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
        rows = book.find(names_in(clips))
        lost = at[rows < 0]
        self._row[at] = rows
        self.code[lost] = UNDECIDED
        self._dirty[self.owners(lost)] = True
        self._earlier = at[:0], clips[:0]
        return len(lost)

    def decisions(self, book: Book) -> Decisions:
        """All that is decided."""
        at = np.flatnonzero(self.code > UNDECIDED)
        owners = self.owners(at)
        rows, codes, table = self._row[at], self.code[at], book.table
        reasons = pa.array(self.reasons, pa.string())

        def verdicts(begin: int, end: int) -> pa.Table:
            mine, code = rows[begin:end], codes[begin:end]
            found = table.take(pa.array(mine, mask=mine < 0))
            said = reasons.take(pa.array(np.maximum(code, 0), mask=code < 0))
            return found.set_column(VERDICTS.get_field_index("reason"), "reason", said)

        turns = (at - self.first[owners]).astype(np.int32)
        return Decisions(owners, turns, verdicts, self._dirty, self._sidecar)


class Walk:
    """One stage's walk over the questions of one corpus."""

    def __init__(self, stage: str, told: Told, quota: int, rows: Rows) -> None:
        self.stage, self.told, self.quota = stage, told, quota
        corpus = told.corpus
        order = walk(rows, corpus.draws, corpus.questions)
        at = told.first[order.rows] + order.turns
        self.at = at[told.speakable[at]]
        self._rows = rows

    def due(self) -> Rows:
        """The questions to decide next: if all are accepted, the quota is met at this point of the walk."""
        codes = self.told.code[self.at]
        hoped = np.cumsum(codes < 0)
        end = int(np.searchsorted(hoped, self.quota)) + 1 if self.quota else 0
        due: Rows = self.at[:end][codes[:end] == UNDECIDED]
        return due

    def expected(self) -> Rows:
        """The same: what will be refused nobody knows."""
        return self.due()

    def report(self, pending: dict[str, str]) -> Spoken:
        """What it came to, and what it still waits for."""
        codes = self.told.code[self.at]
        chosen = self.at[heard(codes == ACCEPTED, codes == UNDECIDED, self.quota)[0]]
        return _report(self.stage, self.told, self._rows, self.at, chosen, self.due(), self.quota, pending)


class Reach:
    """One stage's way along the arc of one corpus until its samples last as long as is asked.

    No clip lasts longer than LONGEST, so that what is asked for next is needed whatever comes of it: nothing is spoken
    that no stage hears, and the samples are the fewest that reach the seconds, in whatever steps they were spoken.
    """

    def __init__(self, stage: str, told: Told, seconds: float, rows: Rows) -> None:
        self.stage, self.told, self._seconds = stage, told, seconds
        self._rows, self._at = rows, told.first[rows]
        self._stored, self._unsaid = told.corpus.seconds[rows], (told.unsaid & told.corpus.stands)[rows]

    def due(self, each: float = LONGEST) -> Rows:
        """The samples to decide next: if each of them lasts `each` seconds, what is asked is reached with them."""
        end, open_ = self._end(each), self._open
        due: Rows = self._at[:end][open_[:end]]
        return due

    def expected(self) -> Rows:
        """The samples that will probably have to be decided, if they last as long as those before them."""
        made = self.told.lasting(self._at)
        return self.due(float(made[made > 0].mean()) if made.any() else USUAL)

    @property
    def _open(self) -> Bools:
        return np.asarray(self._unsaid & (self.told.code[self._at] == UNDECIDED))

    def _end(self, each: float) -> int:
        reached = np.cumsum(self._stored + self.told.lasting(self._at) + np.where(self._open, each, 0.0))
        return min(int(np.searchsorted(reached, self._seconds)) + 1, len(reached)) if self._seconds > 0 else 0

    def report(self, pending: dict[str, str]) -> Spoken:
        """What it came to, and what it still waits for."""
        end = self._end(LONGEST)
        rows = self._rows[:end]
        at = self._at[:end][self._unsaid[:end]]
        chosen = at[self.told.code[at] == ACCEPTED]
        said = _report(self.stage, self.told, rows, at, chosen, self.due(), len(at), pending)
        return said.model_copy(update={"asked_seconds": self._seconds})


def _report(
    stage: str, told: Told, selected: Rows, walked: Rows, chosen: Rows, due: Rows, quota: int, pending: dict[str, str]
) -> Spoken:
    """What is decided of walked questions of selected rows; `chosen` are heard, `due` still to be decided."""
    codes = told.code[walked]
    named = due[np.isin(due, told.named)]
    waiting = [
        (at, pending[clip]) for at, clip in zip(named, told.clips(named).to_pylist(), strict=True) if clip in pending
    ]
    refused = Counter(told.reasons[code] for code in codes[codes >= 0].tolist())
    questions = told.corpus.questions[selected].astype(np.int64)
    every = {
        "selected": np.repeat(selected, questions),
        "speakable": told.owners(walked),
        "spoken": told.owners(chosen),
        "refused": told.owners(walked[codes >= 0]),
        "missing": told.owners(due),
        "pending": told.owners(np.array([at for at, _ in waiting], np.int64)),
    }
    counts = {name: Counter(_counted(told.languages(rows))) for name, rows in every.items()}
    lasting = told.lasting(chosen)
    spoken_in = np.array(told.languages(every["spoken"]).to_pylist())
    return Spoken(
        stage=stage,
        corpus=told.corpus.state.corpus.name,
        kind=told.corpus.state.corpus.kind,
        seconds=round(float(lasting.sum()), 6),
        selected=int(questions.sum()),
        asked=quota,
        speakable=len(walked),
        spoken=len(chosen),
        refused=dict(sorted(refused.items())),
        missing=len(due),
        pending=dict(sorted(Counter(code for _, code in waiting).items())),
        languages={
            language: Share(
                seconds=round(float(lasting[spoken_in == language].sum()), 6),
                **{name: count[language] for name, count in counts.items()},
            )
            for language in sorted(counts["selected"])
        },
    )


def _is(values: pa.Array, value: str) -> Bools:
    return np.asarray(pc.equal(values, value).fill_null(False).to_numpy(zero_copy_only=False), np.bool_)


def _counted(values: pa.Array) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in values.value_counts().to_pylist()}

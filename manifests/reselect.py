"""Whether the samples of a stage are those that its recipe asks for, recounted from the lake that it was planned from.

Own reading of takes and amounts, own arithmetic: the first take in the list that admits a sample has it; of those, in
the order of the circle from the seed's starting point on, exactly the asked ones are there, each as often as asked.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from tarsia.manifests.claimed import Claimed
from tarsia.manifests.findings import Book
from tarsia.manifests.ledger import NOWHERE, Array, Int64s
from tarsia.manifests.rehear import RATE, Verdicts
from tarsia.schemas.identity import start
from tarsia.schemas.lake import CorpusState
from tarsia.schemas.manifest import Ask
from tarsia.schemas.recipe import Take
from tarsia.schemas.sample import Kind


class Admitted(NamedTuple):
    """The samples of a corpus that one take admits."""

    corpus: str
    take: int
    manners: list[int]  # which languages and modalities these are, as the ledger numbers them
    rows: Int64s  # in the order of the corpus


def admitted(stage: Claimed) -> list[Admitted]:
    """To which take the samples of each corpus, language and modality belong."""
    ledger, found = stage.ledger, list[Admitted]()
    for state in stage.source.corpora:
        rows = ledger.rows(state)
        manner = ledger.manner[rows]
        takes = np.full(len(ledger.manners) + 1, -1)
        there = np.flatnonzero(np.bincount(manner, minlength=1)[: len(ledger.manners)])
        for number in there.tolist():
            takes[number] = _take(stage.manifest.stage.takes, state, *ledger.manners[number])
        for take in sorted({*takes[there].tolist()} - {-1}):
            all_of_them = (takes[there] == take).all()
            mine = rows if all_of_them else rows[takes[manner] == take]
            found.append(Admitted(state.corpus.name, take, np.flatnonzero(takes == take).tolist(), mine))
    return found


def takes_of_groups(stage: Claimed, every: Sequence[Admitted]) -> Array:
    """The take of each group of a stage's samples, -1 for none."""
    known = {(one.corpus, manner): one.take for one in every for manner in one.manners}
    return np.array([known.get((group.corpus or "", stage.number(group)), -1) for group in stage.groups], np.int64)


def _take(takes: Sequence[Take], state: CorpusState, language: str | None, modality: str | None) -> int:
    entry = state.corpus
    for number, take in enumerate(takes):
        named = take.kind == entry.kind and _among(take.corpus, [entry.name]) and _among(take.tag, entry.tags)
        if named and _among(take.language, [language]) and _among(take.modality, [modality]):
            return number
    return -1


def _among(wanted: Sequence[str], there: Sequence[str | None]) -> bool:
    return not wanted or bool({*wanted} & {*there})


class _Circle(NamedTuple):
    """The samples that a take admits of a corpus, from the seed's starting point on, and what was chosen of them."""

    rows: Int64s
    times: Array  # how often each was chosen

    @classmethod
    def of(cls, stage: Claimed, rows: Int64s) -> "_Circle":
        first = int(np.searchsorted(stage.ledger.draws[rows], np.uint64(start(stage.manifest.seed))))
        turned = np.concatenate([rows[first:], rows[:first]])
        met = stage.met
        times = np.zeros(len(turned), np.int64)
        if len(met.rows) and len(turned):
            least = int(rows.min())
            every = np.zeros(int(rows.max()) + 1 - least, np.int64)
            begin, end = np.searchsorted(met.rows, [least, least + len(every)])
            every[met.rows[begin:end] - least] = met.times[begin:end]
            times = every[turned - least]
        return cls(turned, times)


def check_selection(stage: Claimed, verdicts: Verdicts, every: Sequence[Admitted]) -> None:
    """The selected samples are those of the arc, as many and as often as asked."""
    manifest, book, takes = stage.manifest, stage.book, stage.manifest.stage.takes
    rows = {(one.corpus, one.take): one.rows for one in every}
    expected = {*rows}
    for state in stage.source.corpora:
        if not any(shard.samples for shard in state.shards):  # an empty corpus stands under the first that names it
            wanting = [number for number, take in enumerate(takes) if take.wants(state.corpus)]
            expected |= {(state.corpus.name, number) for number in wanting[:1]}
    claimed = sorted((ask.corpus, ask.take) for ask in manifest.asks)
    book.equal(stage.where, "corpora asked", claimed, sorted(expected))
    of_groups = takes_of_groups(stage, every)
    unasked = stage.of_groups(of_groups if len(of_groups) else [0]) < 0
    book.none(stage.where, "samples that no take asks for", unasked, stage.key)
    counted = np.bincount(stage.chosen.groups, minlength=len(stage.groups))
    asks = [ask for ask in manifest.asks if (ask.corpus, ask.take) in expected]
    for number, take in enumerate(takes):
        mine = [ask for ask in asks if ask.take == number]
        _Taking(stage, verdicts, take, of_groups, counted).check(mine, rows)


class _Taking(NamedTuple):
    """One take of a stage."""

    stage: Claimed
    verdicts: Verdicts
    take: Take
    of_groups: Array  # the take of each group
    counted: Array  # samples of each group

    def check(self, asks: Sequence[Ask], rows: dict[tuple[str, int], Int64s]) -> None:
        """Compares what was selected of each corpus with what was asked, and the asked with each other."""
        sizes, unsaid = dict[str, Any](), dict[str, int]()
        for ask in asks:
            mine = rows.get((ask.corpus, ask.take), np.empty(0, np.int64))
            sizes[ask.corpus], unsaid[ask.corpus] = self._check_ask(ask, mine)
        if self.take.amount.unit != "%":
            _check_division(self.stage.book, self.stage.where, self.take, sizes, unsaid)

    def _check_ask(self, ask: Ask, rows: Int64s) -> tuple[tuple[float, float], int]:
        """The arc of one corpus; how much was asked of how much, and the samples that voices can make."""
        stage, book, amount = self.stage, self.stage.book, self.take.amount
        where, ledger = f"{stage.where} {ask.corpus}", stage.ledger
        available, seconds = len(rows), float(ledger.seconds[rows].sum())
        book.equal(where, "kind", ask.kind, self.take.kind)
        book.equal(where, "amount", ask.amount, str(amount))
        book.equal(where, "samples in the lake", ask.available, available)
        book.equal(where, "seconds in the lake", ask.available_seconds, seconds)
        questions = int(ledger.questions[rows].sum(dtype=np.int64)) if amount.unit == "questions" else None
        book.equal(where, "questions in the lake", ask.available_questions, questions)
        book.check(where, (ask.available_tokens is not None) == (amount.unit == "tokens"), "tokens in the lake")
        asked = {"samples": ask.samples, "questions": ask.questions, "h": ask.seconds, "tokens": ask.tokens}
        unit = "samples" if amount.unit == "%" else amount.unit
        book.equal(where, "units asked in", [unit], [name for name, value in asked.items() if value is not None])
        size = {"h": seconds, "questions": questions, "tokens": ask.available_tokens}.get(unit, available)
        mine = [group.corpus == ask.corpus for group in stage.groups]
        mine = np.flatnonzero(np.array(mine or [False]) & (self.of_groups == ask.take if len(mine) else False))
        selected, begin = int(self.counted[mine].sum()), 0
        circle = _Circle.of(stage, rows)
        if amount.unit == "%":
            begin = round(amount.start * available / 100)
            wanted = round((amount.start + amount.number) * available / 100) - begin
            wanted = min(wanted, int(self.take.cap.number)) if self.take.cap else wanted
            book.equal(where, "asked", ask.samples, wanted)
        elif unit == "samples":
            wanted = min(ask.samples or 0, available)
        else:
            wanted = selected
            self._check_reach(where, circle, unit, asked[unit] or 0, selected)
        if available:
            book.equal(where, "selected", wanted, selected)
        self._check_arc(where, circle, mine, begin, selected)
        wanting = int(self._wanting(rows).sum()) if unit == "h" else 0
        return (asked[unit] or 0, size or 0), wanting

    def _check_arc(self, where: str, circle: _Circle, mine: Array, begin: int, selected: int) -> None:
        """Place `begin` and those after it, round again after the last; copies numbered as they come."""
        stage, places = self.stage, np.arange(len(circle.rows))
        if begin:
            due = (places >= begin) & (places < begin + selected)
        else:
            due = selected // max(1, len(places)) + (places < selected % max(1, len(places)))
        strange = [key for number, key in stage.strangers.items() if stage.chosen.groups[number] in mine]
        outside = int(((circle.times > 0) & (due == 0)).sum()) + len({*strange})
        wrong = (due > 0) & (circle.times != due)
        if len(stage.met.wrong):
            wrong |= (due > 0) & np.isin(circle.rows, stage.met.wrong)
        stage.book.equal(where, "selected samples outside the arc", 0, outside)
        name = "samples of the arc that are not there as often as asked"
        stage.book.equal(where, name, 0, int(wrong.sum()))

    def _check_reach(self, where: str, circle: _Circle, unit: str, asked: float, selected: int) -> None:
        """As many samples as it takes to reach what was asked, and not one more."""
        stage, rows = self.stage, circle.rows[:selected]
        if unit == "h":
            measure = stage.ledger.seconds[rows] + self._made(rows)
        elif unit == "questions":
            measure = stage.ledger.questions[rows]
        else:
            measure = self._tokens(rows)
        name = "seconds" if unit == "h" else unit
        reached, before = float(measure.sum(dtype=np.float64)), float(measure[: max(0, selected - 1)].sum(dtype=np.float64))
        enough = reached >= asked - 1e-6 or selected == len(circle.rows)
        stage.book.check(where, enough, f"{name} asked {asked}, selected {reached}")
        stage.book.check(where, not selected or before < asked + 1e-6, f"{name} asked {asked}, {before} were enough")

    def _wanting(self, rows: Int64s) -> Array:
        """Which of some samples have no sound until a voice has said them."""
        text = np.array([modality == "text" for _, modality in self.stage.ledger.manners] or [False])
        return text[self.stage.ledger.manner[rows]] & (self.take.kind in (Kind.TTS, Kind.NOISE))

    def _made(self, rows: Int64s) -> Array:
        """The seconds that voices made of some samples."""
        entries = self.verdicts.entries(rows)
        made = np.append(self.verdicts.made(), 0) / RATE
        return np.where(self._wanting(rows), made[entries], 0.0)

    def _tokens(self, rows: Int64s) -> Array:
        """What some samples come to in the manifest, without a system prompt of their own."""
        stage, chosen = self.stage, self.stage.chosen
        each = stage.manifest.context.prompt == "sample"
        carried = [stage.manifest.prompts[group.seen] if each else 0 for group in stage.groups]
        tokens = np.zeros(len(stage.ledger), np.int64)
        known = chosen.rows != NOWHERE
        tokens[chosen.rows[known]] = (chosen.tokens - stage.of_groups(carried or [0]))[known]
        return tokens[rows]


def _check_division(book: Book, where: str, take: Take, sizes: dict[str, Any], unsaid: dict[str, int]) -> None:
    """Each corpus was asked for its part: of hours in proportion, of what is counted as Sainte-Laguë divides.

    Hours that no corpus has ready are asked of those with samples that voices can make, by the number of these.
    """
    whole, makeable = sum(size for _, size in sizes.values()), sum(unsaid.values())
    if take.amount.unit == "h":
        wanted = float(take.amount.number * 3600)
        for corpus, (asked, size) in sizes.items():
            if whole < wanted and makeable:
                share = size + (wanted - whole) * unsaid[corpus] / makeable
            else:
                share = wanted * size / whole if whole else 0.0
            book.equal(f"{where} {corpus}", "seconds asked", asked, share)
        return
    given = sum(asked for asked, _ in sizes.values())
    book.equal(where, f"{take.amount.unit} asked of all corpora", given, int(take.amount.number) if whole else 0)
    last = [Fraction(size, 2 * asked - 1) for asked, size in sizes.values() if asked > 0]
    following = [Fraction(size, 2 * asked + 1) for asked, size in sizes.values()]
    fair = not last or min(last) >= max(following)
    book.check(where, fair, f"{take}: {take.amount} not divided in proportion: {sizes}")


class Scope(NamedTuple):
    """What can be compared between stages: shares without a range, of the same samples."""

    model: str
    seed: int
    corpus: str
    manners: str
    available: int


def scopes(stage: Claimed, every: Sequence[Admitted]) -> Iterator[tuple[Scope, Array]]:
    """The rows that were chosen under each scope, ascending."""
    manifest = stage.manifest
    for one in every:
        if manifest.stage.takes[one.take].amount.start or not len(one.rows):
            continue
        named = sorted(" ".join(map(str, stage.ledger.manners[manner])) for manner in one.manners)
        begin, end = np.searchsorted(stage.met.rows, [one.rows.min(), one.rows.max() + 1])
        rows = stage.met.rows[begin:end]
        if len(rows) and len(one.rows) <= one.rows.max() - one.rows.min():  # others lie between them
            rows = rows[np.isin(rows, one.rows)]
        available = next((ask.available for ask in manifest.asks if (ask.corpus, ask.take) == (one.corpus, one.take)), -1)
        yield Scope(manifest.model, manifest.seed, one.corpus, ", ".join(named), available), rows

"""Whether the samples of a stage are those that its recipe asks for, recounted from the lake that it was planned from.

Own reading of takes and amounts, own arithmetic: the first take in the list that admits a sample has it; of those, in
the order of the circle from the seed's starting point on, exactly the asked ones are there, each as often as asked.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from tarsia.manifests.claimed import Claimed
from tarsia.manifests.findings import Book
from tarsia.manifests.ledger import NOWHERE, Array, Int64s, Run
from tarsia.manifests.recount import sum_by
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
    run: Run  # of the whole corpus
    some: Int64s | None  # which of the run these are, where they are not all

    def __len__(self) -> int:
        return len(self.run) if self.some is None else len(self.some)

    def of(self, column: Array) -> Array:
        """What a column of the ledger has of them."""
        mine = column[self.run.rows]
        return mine if self.some is None else mine[self.some]

    def rank(self, rows: Array) -> Array:
        """The place of some rows of the run among them, -1 where it is none of them."""
        within = rows - self.run.begin
        if self.some is None:
            return within
        met = np.searchsorted(self.some, within)
        met[met == len(self.some)] = 0
        return np.where(self.some[met] == within, met, -1)


_NOBODY = Admitted("", -1, [], Run(0, 0, range(0)), None)


def admitted(stage: Claimed) -> list[Admitted]:
    """To which take the samples of each corpus, language and modality belong."""
    ledger, found = stage.ledger, list[Admitted]()
    for state in stage.source.corpora:
        run = ledger.run(state)
        manner, there = ledger.manner[run.rows], np.zeros(len(ledger.manners), np.bool_)
        there[manner] = True
        numbers = np.flatnonzero(there).tolist()
        takes = np.full(len(ledger.manners), -1)
        takes[numbers] = [_take(stage.manifest.stage.takes, state, *ledger.manners[number]) for number in numbers]
        for take in sorted({*takes[numbers].tolist()} - {-1}):
            every = (takes[numbers] == take).all()
            some = None if every else np.flatnonzero((takes == take)[manner])
            found.append(Admitted(state.corpus.name, take, np.flatnonzero(takes == take).tolist(), run, some))
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


def check_selection(stage: Claimed, verdicts: Verdicts, every: Sequence[Admitted]) -> None:
    """The selected samples are those of the arc, as many and as often as asked."""
    manifest, book, takes = stage.manifest, stage.book, stage.manifest.stage.takes
    known = {(one.corpus, one.take): one for one in every}
    expected = {*known}
    for state in stage.source.corpora:
        if not any(shard.samples for shard in state.shards):  # an empty corpus stands under the first that names it
            wanting = [number for number, take in enumerate(takes) if take.wants(state.corpus)]
            expected |= {(state.corpus.name, number) for number in wanting[:1]}
    claimed = sorted((ask.corpus, ask.take) for ask in manifest.asks)
    book.equal(stage.where, "corpora asked", claimed, sorted(expected))
    of_groups = takes_of_groups(stage, every)
    counted = sum_by(stage.chosen.groups, None, len(stage.groups))
    none = ", ".join(" ".join(map(str, stage.groups[number])) for number in np.flatnonzero(of_groups < 0).tolist())
    book.check(stage.where, not none, f"samples that no take asks for: {none}")
    asks = [ask for ask in manifest.asks if (ask.corpus, ask.take) in expected]
    for number, take in enumerate(takes):
        mine = [ask for ask in asks if ask.take == number]
        _Taking(stage, verdicts, take, of_groups, counted).check(mine, known)


class _Taking(NamedTuple):
    """One take of a stage."""

    stage: Claimed
    verdicts: Verdicts
    take: Take
    of_groups: Array  # the take of each group
    counted: Array  # samples of each group

    def check(self, asks: Sequence[Ask], known: Mapping[tuple[str, int], Admitted]) -> None:
        """Compares what was selected of each corpus with what was asked, and the asked with each other."""
        sizes, unsaid = dict[str, Any](), dict[str, int]()
        for ask in asks:
            mine = known.get((ask.corpus, ask.take), _NOBODY)
            sizes[ask.corpus], unsaid[ask.corpus] = self._check_ask(ask, mine)
        if self.take.amount.unit != "%":
            _check_division(self.stage.book, self.stage.where, self.take, sizes, unsaid)

    def _check_ask(self, ask: Ask, mine: Admitted) -> tuple[tuple[float, float], int]:
        """The arc of one corpus; how much was asked of how much, and the samples that voices can make."""
        stage, book, amount = self.stage, self.stage.book, self.take.amount
        where, ledger = f"{stage.where} {ask.corpus}", stage.ledger
        available, seconds = len(mine), float(mine.of(ledger.seconds).sum())
        book.equal(where, "kind", ask.kind, self.take.kind)
        book.equal(where, "amount", ask.amount, str(amount))
        book.equal(where, "samples in the lake", ask.available, available)
        book.equal(where, "seconds in the lake", ask.available_seconds, seconds)
        counted = amount.unit == "questions"
        questions = int(mine.of(ledger.questions).sum(dtype=np.int64)) if counted else None
        book.equal(where, "questions in the lake", ask.available_questions, questions)
        book.check(where, (ask.available_tokens is not None) == (amount.unit == "tokens"), "tokens in the lake")
        asked = {"samples": ask.samples, "questions": ask.questions, "h": ask.seconds, "tokens": ask.tokens}
        unit = "samples" if amount.unit == "%" else amount.unit
        book.equal(where, "units asked in", [unit], [name for name, value in asked.items() if value is not None])
        size = {"h": seconds, "questions": questions, "tokens": ask.available_tokens}.get(unit, available)
        groups = [number for number, group in enumerate(stage.groups)
                  if (group.corpus, self.of_groups[number]) == (ask.corpus, ask.take)]  # fmt: skip
        selected, begin = int(self.counted[groups].sum()), 0
        if amount.unit == "%":
            begin = round(amount.start * available / 100)
            wanted = round((amount.start + amount.number) * available / 100) - begin
            wanted = min(wanted, int(self.take.cap.number)) if self.take.cap else wanted
            book.equal(where, "asked", ask.samples, wanted)
        elif unit == "samples":
            wanted = min(ask.samples or 0, available)
        else:
            wanted = selected
            self._check_reach(where, mine, unit, asked[unit] or 0, selected)
        if available:
            book.equal(where, "selected", wanted, selected)
        self._check_arc(where, mine, groups, begin, selected)
        wanting = int(self._wanting(mine).sum()) if unit == "h" else 0
        return (asked[unit] or 0, size or 0), wanting

    def _first(self, mine: Admitted) -> int:
        """How many come before the seed's starting point."""
        return int(np.searchsorted(mine.of(self.stage.ledger.draws), np.uint64(start(self.stage.manifest.seed))))

    def _check_arc(self, where: str, mine: Admitted, groups: Sequence[int], begin: int, selected: int) -> None:
        """Place `begin` and those after it, round again after the last; copies numbered as they come."""
        stage, size = self.stage, max(1, len(mine))
        rows, times = stage.met.within(mine.run.begin, mine.run.end)
        ranks = mine.rank(rows)
        of_take = ranks >= 0
        place = (ranks - self._first(mine)) % size
        due = ((place >= begin) & (place < begin + selected)) if begin else selected // size + (place < selected % size)
        whole = max(0, min(selected, len(mine) - begin))
        right = of_take & (due > 0) & (times == due) & ~np.isin(rows, stage.met.wrong)
        strange = {key for number, key in stage.strangers.items() if stage.chosen.groups[number] in groups}
        outside = int((of_take & (due == 0)).sum()) + len(strange)
        stage.book.equal(where, "selected samples outside the arc", 0, outside)
        name = "samples of the arc that are not there as often as asked"
        stage.book.equal(where, name, 0, whole - int(right.sum()))

    def _check_reach(self, where: str, mine: Admitted, unit: str, asked: float, selected: int) -> None:
        """As many samples as it takes to reach what was asked, and not one more."""
        ledger = self.stage.ledger
        if unit == "h":
            measure = mine.of(ledger.seconds) + self._made(mine)
        else:
            measure = mine.of(ledger.questions) if unit == "questions" else self._tokens(mine)
        name, first = "seconds" if unit == "h" else unit, self._first(mine)
        reached, before = (
            float(measure[first : first + count].sum(dtype=np.float64))
            + float(measure[: max(0, first + count - len(mine))].sum(dtype=np.float64))
            for count in (selected, max(0, selected - 1))
        )
        enough = reached >= asked - 1e-6 or selected == len(mine)
        self.stage.book.check(where, enough, f"{name} asked {asked}, selected {reached}")
        more = selected and before >= asked + 1e-6
        self.stage.book.check(where, not more, f"{name} asked {asked}, {before} were enough")

    def _wanting(self, mine: Admitted) -> Array:
        """Which samples have no sound until a voice has said them."""
        manners = self.stage.ledger.manners if self.take.kind in (Kind.TTS, Kind.NOISE) else []
        text = np.array([modality == "text" for _, modality in manners])
        return text[mine.of(self.stage.ledger.manner)] if text.any() else np.zeros(len(mine), np.bool_)

    def _made(self, mine: Admitted) -> Array:
        """The seconds that voices made of samples that had none."""
        wanting = self._wanting(mine)
        if not wanting.any() or not len(self.verdicts.of_row):
            return np.zeros(len(mine))
        entries = mine.of(self.verdicts.of_row)
        return np.where(wanting & (entries >= 0), self.verdicts.made()[entries] / RATE, 0.0)

    def _tokens(self, mine: Admitted) -> Array:
        """What samples come to in the manifest, without a system prompt of their own."""
        stage, chosen = self.stage, self.stage.chosen
        each = stage.manifest.context.prompt == "sample"
        carried = [stage.manifest.prompts[group.seen] if each else 0 for group in stage.groups]
        tokens = np.zeros(len(stage.ledger), np.int64)
        known = chosen.rows != NOWHERE
        tokens[chosen.rows[known]] = (chosen.tokens - stage.of_groups(carried))[known]
        return mine.of(tokens)


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
        if manifest.stage.takes[one.take].amount.start:
            continue
        named = sorted(" ".join(map(str, stage.ledger.manners[manner])) for manner in one.manners)
        rows, _ = stage.met.within(one.run.begin, one.run.end)
        asked = (ask.available for ask in manifest.asks if (ask.corpus, ask.take) == (one.corpus, one.take))
        scope = Scope(manifest.model, manifest.seed, one.corpus, ", ".join(named), next(asked, -1))
        yield scope, rows if one.some is None else rows[one.rank(rows) >= 0]

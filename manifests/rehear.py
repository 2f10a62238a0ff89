"""Which questions of a stage should be heard, recounted from the sidecars: of those accepted the first, as asked.

A **verdict** counts while the record is the one that was spoken. Noise and text-to-speech without a sound of their own
(**wanted**) are nothing until a voice has said them, and last as long as the clip that was made of them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.columns import values_of, whole
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table
from tarsia.manifests.claimed import Claimed, Some
from tarsia.manifests.keys import Bools, keys_of, words_of
from tarsia.manifests.ledger import NOWHERE, Array, Int64s, Ledger, steps
from tarsia.schemas.identity import redraws
from tarsia.schemas.lake import Snapshot
from tarsia.schemas.sample import Kind

RATE = 16_000  # samples a second of what is heard
_COLUMNS = ("key", "record", "clips.list.element.turn", "clips.list.element.samples16",
            "refused.list.element.turn", "offset", "length", "checksum")  # fmt: skip


class Lists(NamedTuple):
    """Some values of each entry: those from `begins` on, so many."""

    begins: Int64s
    counts: Int64s
    values: Array

    def of(self, entries: Int64s) -> tuple[Int64s, Int64s]:
        """The numbers of the values of some entries, and for each which of these entries it is of."""
        counts = self.counts[entries]
        which = np.repeat(np.arange(len(entries)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.begins[entries][which] + within, which

    def first(self, turn: int) -> Bools:
        """Which entries have a value of this turn."""
        at, which = self.of(np.arange(len(self.counts)))
        return np.bincount(which[self.values[at] == turn], minlength=len(self.counts)) > 0


class Verdicts(NamedTuple):
    """What voices made of the samples of a lake: an entry for each row of a sidecar whose sample is there."""

    of_row: Array  # the entry of each row of the ledger, -1 for none; empty where nothing was spoken
    fresh: Bools  # whether the record is the one that was spoken
    draws: Array
    tars: list[str]
    tar: Array  # by its number in `tars`
    offsets: Int64s
    lengths: Int64s
    checksums: Array
    clips: Lists  # turns; none where not fresh
    samples16: Int64s  # of each clip
    refused: Lists  # turns; none where not fresh

    def entries(self, rows: Array) -> Array:
        """The entry of each row, -1 for none."""
        if not len(self.of_row):
            return np.full(len(rows), -1, np.int32)
        found: Array = np.where(rows == NOWHERE, -1, self.of_row[rows])
        return found

    def made(self) -> Int64s:
        """How long the first clip of each entry is, 0 without one."""
        at, which = self.clips.of(np.arange(len(self.fresh)))
        first = self.clips.values[at] == 0
        return np.bincount(which[first], self.samples16[at[first]], len(self.fresh)).astype(np.int64)


class Heard(NamedTuple):
    """What should be heard of a stage."""

    at: Int64s  # numbers of the chosen with a question that is due, one for each such question
    turns: Int64s
    lengths: Int64s  # samples at 16 kHz
    wanted: Bools  # of the chosen: whether they are nothing until they are said
    made: Bools  # whether they were
    refused: Bools  # or were refused
    refusals: Array  # how many of their questions were refused
    decided: Array  # how many have a verdict
    quotas: Mapping[tuple[str, int], int | None]  # by corpus and take: how many questions are to be heard


def read_verdicts(store: Store, source: Snapshot, ledger: Ledger) -> Verdicts:
    """Reads the sidecars' indexes; entries are in the order of their rows."""
    parts, rows, fresh, tars = list[pa.Table](), list[Int64s](), list[Bools](), list[str]()
    for speech in source.speech:
        state = source.corpus(speech.corpus)
        if state is None:
            continue
        for shard in speech.shards:
            table = get_table(store, shard.index, _COLUMNS, verify=True, raw=True)
            found = ledger.find(ledger.run(state), keys_of(whole(table["key"])))
            known = np.flatnonzero(found != NOWHERE)
            known = known[np.argsort(found[known])]
            table = table.take(pa.array(known))
            rows.append(found[known])
            fresh.append(ledger.records[rows[-1]] == words_of(whole(table["record"]))[:, 0])
            number = pa.array(np.full(len(table), len(tars), np.int32))
            parts.append(table.drop_columns(["key", "record"]).append_column("tar", number))
            tars.append(shard.tar.path)
    if not parts:
        return _NOTHING
    return _entries(ledger, pa.concat_tables(parts), np.concatenate(rows), np.concatenate(fresh), tars)


def _entries(ledger: Ledger, table: pa.Table, rows: Int64s, fresh: Bools, tars: list[str]) -> Verdicts:
    if (rows[1:] < rows[:-1]).any():
        order = np.argsort(rows, kind="stable")
        table, rows, fresh = table.take(pa.array(order)), rows[order], fresh[order]
    column = {name: whole(table[name]) for name in table.column_names}
    clips, refused = column["clips"], column["refused"]
    of_row = np.full(len(ledger), -1, np.int32)
    of_row[rows] = np.arange(len(rows))
    return Verdicts(
        of_row=of_row,
        fresh=fresh,
        draws=ledger.draws[rows],
        tars=tars,
        tar=values_of(column["tar"]),
        offsets=values_of(column["offset"]),
        lengths=values_of(column["length"]),
        checksums=values_of(column["checksum"]),
        clips=_lists(clips, "turn", fresh),
        samples16=values_of(pc.struct_field(clips.flatten(), "samples16")),
        refused=_lists(refused, "turn", fresh),
    )


def _lists(lists: pa.ListArray, field: str, fresh: Bools) -> Lists:
    lengths = values_of(pc.list_value_length(lists), missing=0).astype(np.int64)
    begins = np.cumsum(lengths) - lengths
    return Lists(begins, np.where(fresh, lengths, 0), values_of(pc.struct_field(lists.flatten(), field)))


_NONE = np.empty(0, np.int64)
_NO_LISTS = Lists(_NONE, _NONE, _NONE)
_NOTHING = Verdicts(
    _NONE, _NONE > 0, _NONE.astype(np.uint64), [], _NONE, _NONE, _NONE, _NONE, _NO_LISTS, _NONE, _NO_LISTS
)


# --- what is due ----------------------------------------------------------------------------------------------------


def hear(stage: Claimed, verdicts: Verdicts, takes: Array) -> Heard:
    """What is due of a stage; `takes` is the take of each of its groups, -1 for none."""
    chosen = stage.chosen
    entries = verdicts.entries(chosen.rows)
    wanted, some = _wanted(stage), np.flatnonzero(entries >= 0)
    made, refused = np.zeros((2, len(chosen)), np.bool_)
    refusals, decided = np.zeros((2, len(chosen)), np.int16)
    if len(some):
        mine = entries[some]
        made[some], refused[some] = verdicts.clips.first(0)[mine], verdicts.refused.first(0)[mine]
        refusals[some] = verdicts.refused.counts[mine]
        decided[some] = refusals[some] + verdicts.clips.counts[mine]
    quotas = _quotas(stage, takes, wanted)
    at, turns, lengths = _due(stage, verdicts, takes, some, entries[some])
    return Heard(at, turns, lengths, wanted, made, refused, refusals, decided, quotas)


def _wanted(stage: Claimed) -> Bools:
    kinds = {state.corpus.name: state.corpus.kind for state in stage.source.corpora}
    made_of = np.array([kinds.get(group.corpus or "") in (Kind.TTS, Kind.NOISE) for group in stage.groups])
    wanted = np.zeros(len(stage.chosen), np.bool_)
    if made_of.any():
        wanted = stage.of_groups(made_of) & (stage.chosen.rows != NOWHERE)
        rows = stage.chosen.rows[wanted]
        text = np.array([modality == "text" for _, modality in stage.ledger.manners])
        wanted[wanted] = text[stage.ledger.manner[rows]] & (stage.ledger.lengths[rows] > 0)
    return wanted


def _quotas(stage: Claimed, takes: Array, wanted: Bools) -> dict[tuple[str, int], int | None]:
    """How many questions should be heard: a share of those that stand, and all that are nothing without."""
    chosen, share = stage.chosen, stage.manifest.stage.spoken
    questions = needed = takes * 0
    if share:
        standing = (chosen.rows != NOWHERE) & (stage.ledger.lengths[chosen.rows] > 0)
        questions = np.bincount(chosen.groups, chosen.questions * standing, len(stage.groups))
    if wanted.any():
        needed = np.bincount(chosen.groups, wanted, len(stage.groups))
    quotas = dict[tuple[str, int], int | None]()
    for ask in stage.manifest.asks:
        mine = [number for number, group in enumerate(stage.groups)
                if (group.corpus, takes[number]) == (ask.corpus, ask.take)]  # fmt: skip
        quota = round(share.number / 100 * int(questions[mine].sum())) if share else None
        if ask.kind in (Kind.TTS, Kind.NOISE):
            count = int(needed[mine].sum())
            quota = count if count or share else None
        quotas[ask.corpus, ask.take] = quota
    return quotas


def _due(stage: Claimed, verdicts: Verdicts, takes: Array, some: Int64s, entries: Array) -> tuple[Int64s, ...]:
    """Of each take of a corpus the first questions accepted, in the order of their coins, as many as were asked."""
    clips, which = verdicts.clips.of(entries)
    at, turns = some[which], verdicts.clips.values[clips].astype(np.int64)
    copies = stage.chosen.copies[at].astype(np.uint64)
    coins = redraws(verdicts.draws[entries][which], "spoken", turns.astype(np.uint64) + copies * np.uint64(2**32))
    due = [_NONE]
    for ask in stage.manifest.asks:
        mine = [(group.corpus, take) == (ask.corpus, ask.take)
                for group, take in zip(stage.groups, takes.tolist(), strict=True)]  # fmt: skip
        those = np.flatnonzero(np.array(mine or [False])[stage.chosen.groups[at]])
        order = np.lexsort((copies[those], turns[those], stage.chosen.rows[at[those]], coins[those]))
        due.append(those[order[: max(0, ask.spoken or 0)]])
    chosen = np.concatenate(due)
    return at[chosen], turns[chosen], verdicts.samples16[clips[chosen]]


# --- the checks -----------------------------------------------------------------------------------------------------


def check_speech(stage: Claimed, verdicts: Verdicts, heard: Heard) -> None:
    """What is heard was accepted, is the first of what was accepted, and no more than asked."""
    manifest, book, chosen = stage.manifest, stage.book, stage.chosen
    for ask in manifest.asks:
        quota = heard.quotas[ask.corpus, ask.take]
        book.equal(f"{stage.where} {ask.corpus}", "questions to be heard", ask.spoken, quota)
    placed = heard.at < chosen.placed
    due, said = _questions(heard.at[placed], heard.turns[placed]), _questions(*stage.heard)
    needless = _without(said, due)
    unlike, fewer = np.concatenate([needless, _without(due, said)]), len(needless)
    book.none(
        stage.where,
        "questions heard that are not the first accepted, or the reverse",
        unlike != -1,
        lambda at: ("heard" if at < fewer else "not heard", stage.key(int(unlike[at] >> 32)),
                    int(unlike[at] & 0xFFFFFFFF)),
    )  # fmt: skip
    at, turns = stage.heard
    late = np.zeros(len(at), np.bool_)
    late[1:] = (at[1:] == at[:-1]) & (turns[1:] <= turns[:-1])
    book.none(stage.where, "questions heard twice or out of order", late, lambda one: stage.key(int(at[one])))
    _check_sidecars(stage, verdicts)
    _check_seconds(stage, heard)


def _questions(at: Int64s, turns: Array) -> Int64s:
    """One number a question, ascending."""
    return np.sort(at << 32 | turns.astype(np.uint32))


def _without(some: Int64s, others: Int64s) -> Int64s:
    """Those of some numbers that are not among others, both ascending."""
    if not len(others):
        return some
    met = np.minimum(np.searchsorted(others, some), len(others) - 1)
    found: Int64s = some[others[met] != some]
    return found


def _check_sidecars(stage: Claimed, verdicts: Verdicts) -> None:
    """The speech of a sample that is heard lies where the sidecar has it; another has none."""
    heard = stage.heard.at[np.diff(stage.heard.at, prepend=-1) > 0]
    entries = verdicts.entries(stage.chosen.rows[heard])
    tars = {stored.path: number for number, stored in enumerate(stage.manifest.shards)}
    numbers = np.array([*(tars.get(path, -2) for path in verdicts.tars), -2])
    wrong = entries < 0
    has = np.flatnonzero(~wrong)
    mine = entries[has]
    true = {
        "speech_shard": numbers[verdicts.tar[mine]] if len(mine) else mine,
        "speech_offset": verdicts.offsets[mine],
        "speech_length": verdicts.lengths[mine],
        "speech_checksum": verdicts.checksums[mine],
    }
    needless = [_NONE]
    for name, values in true.items():
        wrong[has] |= ~_is(stage.speech[name], heard[has], values)
        needless.append(_without(stage.speech[name].at, heard))
    strange = np.concatenate([heard[wrong], *needless])
    stage.book.none(stage.where, "samples whose speech lies elsewhere", strange >= 0,
                    lambda at: stage.key(int(strange[at])))  # fmt: skip


def _is(column: Some, at: Int64s, values: Array) -> Bools:
    """Whether a column has these values at these rows."""
    if not len(column.at):
        return np.zeros(len(at), np.bool_)
    place = np.minimum(np.searchsorted(column.at, at), len(column.at) - 1)
    same: Bools = (column.at[place] == at) & (column.values[place] == values)
    return same


def _check_seconds(stage: Claimed, heard: Heard) -> None:
    chosen, said = stage.chosen, np.zeros(len(stage.chosen))
    np.add.at(said, heard.at, heard.lengths / RATE)
    wrong = np.zeros(len(chosen), np.bool_)
    for part in steps(len(chosen)):
        rows = chosen.rows[part]
        rest = chosen.seconds[part] - stage.ledger.seconds[rows] - said[part]
        wrong[part] = ~(np.abs(rest) <= 1e-6) & (rows != NOWHERE)
    stage.book.none(stage.where, "samples with other seconds than their audio and their clips", wrong,
                    lambda at: (stage.key(at), float(chosen.seconds[at])))  # fmt: skip

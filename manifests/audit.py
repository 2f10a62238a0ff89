"""Every figure of a manifest, computed again from what is stored, by other means than those that made it.

The audit is SQL over the tables of the lake; it imports nothing from select, costs or plan. It asks, for each stage:
are the stored bytes those that were recorded; is every sample placed once, whole, within the budget; are the selected
samples exactly the arc of the circle that the recipe's share and seed name; do the counts add up; is what is heard the
first of what was accepted; does a smaller share lie inside a larger one; and for the lake: did every record end as a
sample or in quarantine.

A **finding** names the place and the two numbers that disagree. No findings: the manifest is true.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from tarsia.builders.lake import Lake
from tarsia.builders.shards import members
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table, get_tables, rows_digest
from tarsia.schemas.errors import Corrupt, NotThere, StorageFault
from tarsia.schemas.identity import checksum, digest, redraw, start
from tarsia.schemas.lake import Snapshot
from tarsia.schemas.manifest import CONTEXTS, SAMPLES, UNPLACED, Manifest
from tarsia.schemas.model import Model
from tarsia.schemas.shard import INDEX, ORIGINS, SPEECH, Stored

_PLACED = ("placed", "placed_questions", "placed_tokens", "placed_seconds", "placed_spoken")
_INDEX = ("key", "draw", "record", "language", "modality", "questions", "offset", "length", "checksum")


class Finding(Model):
    """One disagreement: where, and what."""

    where: str
    what: str


class Audit(Model):
    """What was looked at, and what did not agree."""

    checks: int
    findings: tuple[Finding, ...]


class _Book:
    """Collects checks and findings."""

    def __init__(self) -> None:
        self.checks = 0
        self.findings: list[Finding] = []

    def check(self, where: str, ok: bool, what: str) -> None:
        """Notes one check."""
        self.checks += 1
        if not ok:
            self.findings.append(Finding(where=where, what=what))

    def equal(self, where: str, name: str, claimed: Any, found: Any) -> None:
        """Notes that two figures should be the same; seconds to a microsecond in a million."""
        same = claimed == found
        if isinstance(claimed, float) and isinstance(found, float | int):
            same = abs(claimed - found) <= 1e-6 * max(1.0, abs(claimed))
        self.check(where, same, f"{name}: recorded {claimed}, found {found}")


def audit(lake: Lake, manifests: Sequence[Manifest], *, deep: bool = False) -> Audit:
    """Recomputes the manifests and the lake they were planned from. `deep` reads every byte that they point to."""
    book = _Book()
    snapshots = [lake.snapshot(number) for number in reversed(lake.numbers())]
    for manifest in manifests:
        where = f"{manifest.model}/{manifest.name}"
        source = _planned_from(manifest, snapshots)
        book.check(where, source is not None, "no snapshot of the lake is the one it was planned from")
        tables = _tables(lake.store, manifest, where, book)
        if source is None or tables is None:
            continue
        with duckdb.connect() as sql:
            for name, table in tables.items():
                sql.register(name, table)
            _lake_tables(sql, lake.store, source, manifest, where, book)
            _check_contexts(sql, manifest, where, book)
            _check_selection(sql, manifest, where, book)
            _check_counts(sql, manifest, where, book)
            _check_speech(sql, manifest, where, book)
        if deep:
            _check_bytes(lake.store, manifest, tables["samples"], where, book)
    _check_nesting(lake.store, manifests, book)
    _check_conservation(lake.store, snapshots[0], book, deep)
    return Audit(checks=book.checks, findings=tuple(book.findings))


def _planned_from(manifest: Manifest, snapshots: Iterable[Snapshot]) -> Snapshot | None:
    for snapshot in snapshots:
        part = snapshot.part(manifest.stage.take, manifest.pool)
        if part.digest == manifest.lake:
            return part
    return None


def _tables(store: Store, manifest: Manifest, where: str, book: _Book) -> dict[str, pa.Table] | None:
    tables = {}
    for name, schema in (("contexts", CONTEXTS), ("samples", SAMPLES), ("unplaced", UNPLACED)):
        stored = manifest.tables.get(name)
        book.check(where, stored is not None, f"the manifest has no table '{name}'")
        if stored is None:
            return None
        try:
            table = get_table(store, stored, verify=True)
        except (Corrupt, NotThere, StorageFault, pa.ArrowInvalid) as error:
            book.check(where, False, str(error))
            return None
        book.check(where, table.schema.equals(schema), f"table '{name}' has other columns than its schema")
        book.equal(where, f"logical digest of '{name}'", manifest.rows.get(name), rows_digest(table))
        tables[name] = table
    return tables


def _lake_tables(
    sql: duckdb.DuckDBPyConnection, store: Store, source: Snapshot, manifest: Manifest, where: str, book: _Book
) -> None:
    """Registers the index of every corpus and sidecar, with the path of the tar that each row lies in."""
    parts, spoken = [], []
    try:
        for state in source.corpora:
            for shard in state.shards:
                table = get_table(store, shard.index, verify=True).cast(INDEX)
                book.equal(where, f"samples of {shard.index.path}", shard.samples, len(table))
                parts.append(_located(table.select(_INDEX), state.corpus.name, shard.tar.path))
        for speech in source.speech:
            for shard in speech.shards:
                table = get_table(store, shard.index, verify=True).cast(SPEECH)
                spoken.append(_located(table, speech.corpus, shard.tar.path))
    except (Corrupt, NotThere, StorageFault, pa.ArrowInvalid) as error:
        book.check(where, False, str(error))
    empty = _located(pa.schema([INDEX.field(name) for name in _INDEX]).empty_table(), "", "")
    sql.register("lake_index", pa.concat_tables([empty, *parts]))
    sql.register("lake_speech", pa.concat_tables([_located(SPEECH.empty_table(), "", ""), *spoken]))
    paths = [stored.path for stored in manifest.shards]
    sql.register(
        "tars", pa.table({"number": pa.array(range(len(paths)), pa.int32()), "path": pa.array(paths, pa.string())})
    )
    kinds = {state.corpus.name: state.corpus.kind.value for state in source.corpora}
    sql.register(
        "corpora", pa.table({"corpus": pa.array(kinds, pa.string()), "kind": pa.array(kinds.values(), pa.string())})
    )


def _located(table: pa.Table, corpus: str, path: str) -> pa.Table:
    plain = [column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.columns]
    names = [*table.column_names, "corpus", "path"]
    return pa.table(
        [*plain, pa.array([corpus] * len(table), pa.string()), pa.array([path] * len(table), pa.string())], names
    )


def _one(sql: duckdb.DuckDBPyConnection, query: str, *values: Any) -> tuple[Any, ...]:
    row = sql.execute(query, values).fetchone()
    assert row is not None
    return tuple(row)


def _check_contexts(sql: duckdb.DuckDBPyConnection, manifest: Manifest, where: str, book: _Book) -> None:
    """Every context whole, within its budget, and what its row says."""
    sql.register("prompts", pa.table({"prompt": list(manifest.prompts), "cost": list(manifest.prompts.values())}))
    book.equal(where, "contexts", manifest.contexts, _one(sql, "select count(*) from contexts")[0])
    wrong = sql.execute(
        """
        with sums as (
            select context, count(*) as n, sum(tokens) as t, sum(tiles) as s_tiles,
                   sum(frames) as s_frames, sum(audio_tokens) as s_audio,
                   sum(seconds) as s_seconds, min(slot) as low, max(slot) as high, count(distinct slot) as slots,
                   bool_or(contains(modality::varchar, 'video')) as video,
                   bool_or(contains(modality::varchar, 'image')) as image
            from samples group by context),
        starts as (select context, coalesce(sum(samples) over (order by context rows between unbounded preceding
                   and 1 preceding), 0) as first_row from contexts)
        select c.context, c.tokens, s.t + p.cost from contexts c
        left join sums s using (context) left join prompts p on p.prompt = c.prompt::varchar
        left join starts f using (context)
        where s.n is null or c.samples <> s.n or c.tokens <> s.t + p.cost or c.tokens > ? or c.tiles <> s_tiles
           or c.frames <> s_frames or c.audio_tokens <> s_audio or abs(c.seconds - s_seconds) > 1e-6 or s.low <> 0
           or s.high <> s.n - 1 or s.slots <> s.n or c.first <> f.first_row or (s.video and s.n > 1)
           or c.prompt::varchar <> (case when s.video then 'video' when s.image then 'image' else 'text' end)
        order by 1 limit 3
        """,
        [manifest.context.tokens],
    ).fetchall()
    for context, claimed, found in wrong:
        book.check(
            where,
            False,
            f"context {context}: recorded {claimed} tokens, its samples come to {found}, or its parts differ",
        )
    book.check(where, not wrong, "contexts differ from their samples")
    homeless = _one(sql, "select count(*) from samples where context not in (select context from contexts)")[0]
    book.equal(where, "samples without a context", 0, homeless)
    twice = _one(
        sql, "select count(*) - count(distinct key) from (select key from samples union all select key from unplaced)"
    )
    book.equal(where, "samples placed twice", 0, twice[0])
    strangers = sql.execute(
        """
        select s.key, s.corpus::varchar from samples s left join tars t on t.number = s.shard
        left join lake_index i on i.key = s.key and i.corpus = s.corpus::varchar
        left join corpora c on c.corpus = s.corpus::varchar
        where i.key is null or i.path is distinct from t.path or i."offset" <> s."offset" or i.length <> s.length
           or i.checksum <> s.checksum or i.questions <> s.questions or i.language <> s.language::varchar
           or i.modality <> s.modality::varchar or c.kind <> s.kind::varchar
        order by 1 limit 3
        """
    ).fetchall()
    for key, corpus in strangers:
        book.check(where, False, f"sample {key} of '{corpus}' is not the one in the lake's index")
    book.check(where, not strangers, "samples differ from the lake's index")


def _check_selection(sql: duckdb.DuckDBPyConnection, manifest: Manifest, where: str, book: _Book) -> None:
    """The selected samples are the first of the arc, and as many as asked."""
    origin = start(manifest.seed)
    for ask in manifest.asks:
        place = f"{where} {ask.corpus}"
        amount = manifest.stage.take.get(ask.kind)
        book.equal(place, "amount", ask.amount, str(amount))
        available, selected = _one(
            sql,
            """select (select count(*) from lake_index where corpus = $1), (select count(*) from
               (select key from samples where corpus = $1 union all select key from unplaced where corpus = $1))""",
            ask.corpus,
        )
        book.equal(place, "samples in the lake", ask.available, available)
        if amount is not None and amount.unit == "%":
            book.equal(place, "asked", ask.samples, round(Fraction(amount.number) / 100 * available))
            book.equal(place, "selected", ask.samples, selected)
        outside = _one(
            sql,
            """
            with arc as (select key, row_number() over (order by draw < $2::ubigint, draw, key) as place
                         from lake_index where corpus = $1),
            mine as (select key from samples where corpus = $1 union all select key from unplaced where corpus = $1)
            select count(*) from mine left join arc using (key) where place is null or place > $3
            """,
            ask.corpus, str(origin), selected,
        )  # fmt: skip
        book.equal(place, "selected samples outside the arc", 0, outside[0])


def _check_counts(sql: duckdb.DuckDBPyConnection, manifest: Manifest, where: str, book: _Book) -> None:
    """Selected and placed, by corpus, language and modality."""
    rows = sql.execute(
        """
        with every as (
            select corpus::varchar as corpus, kind::varchar as kind, language::varchar as lang,
                   modality::varchar as modality,
                   questions, tokens, seconds, true as placed, len(spoken) as spoken from samples
            union all
            select corpus::varchar, kind::varchar, language::varchar, modality::varchar, questions, tokens, seconds,
                   false, null from unplaced)
        select corpus, kind, lang, modality, count(*), sum(questions), sum(tokens), sum(seconds),
               count(*) filter (placed), coalesce(sum(questions) filter (placed), 0),
               coalesce(sum(tokens) filter (placed), 0), coalesce(sum(seconds) filter (placed), 0),
               coalesce(sum(spoken) filter (placed), 0)
        from every group by all
        """
    ).fetchall()
    names = ("selected", "selected_questions", "selected_tokens", "selected_seconds", *_PLACED)
    found = {row[:4]: dict(zip(names, row[4:], strict=True)) for row in rows}
    claimed = {(one.corpus, one.kind.value, one.language, one.modality): one for one in manifest.counts}
    book.equal(where, "groups of samples", sorted(claimed), sorted(found))
    for group in claimed.keys() & found.keys():
        for name, value in found[group].items():
            book.equal(f"{where} {' '.join(group)}", name, getattr(claimed[group], name), value)


def _check_speech(sql: duckdb.DuckDBPyConnection, manifest: Manifest, where: str, book: _Book) -> None:
    """What is heard was accepted, is the first of what was accepted, and no more than asked."""
    heard = sql.execute("select corpus::varchar, key, unnest(spoken) from samples").fetchall()
    if manifest.stage.spoken is None:
        book.equal(where, "questions heard in a silent stage", 0, len(heard))
        return
    accepted = sql.execute(
        """select s.corpus, s.key, s.draw, unnest(s.clips).turn from lake_speech s
           join lake_index i on i.key = s.key and i.record = s.record"""
    ).fetchall()
    clips = {(corpus, key, turn): redraw(draw, "spoken", turn) for corpus, key, draw, turn in accepted}
    book.equal(where, "questions heard without a clip", 0, sum(one not in clips for one in heard))
    misplaced = _one(
        sql,
        """select count(*) from samples s left join lake_speech l on l.key = s.key
           left join tars t on t.number = s.speech_shard where len(s.spoken) > 0 and (l.key is null or t.path <> l.path
           or s.speech_offset <> l."offset" or s.speech_length <> l.length or s.speech_checksum <> l.checksum)""",
    )
    book.equal(where, "samples whose speech lies elsewhere", 0, misplaced[0])
    selected = sql.execute(
        """select corpus::varchar, key, questions, true from samples
           union all select corpus::varchar, key, questions, false from unplaced"""
    ).fetchall()
    known = {key: placed for _, key, _, placed in selected}
    questions: dict[str, int] = {}
    for corpus, _, count, _ in selected:
        questions[corpus] = questions.get(corpus, 0) + count
    for ask in manifest.asks:
        place = f"{where} {ask.corpus}"
        quota = round(manifest.stage.spoken.number / 100 * questions.get(ask.corpus, 0))
        book.equal(place, "questions to be heard", ask.spoken, quota)
        mine = sorted(
            (coin, key, turn) for (corpus, key, turn), coin in clips.items() if corpus == ask.corpus and key in known
        )
        first = {(key, turn) for _, key, turn in mine[:quota] if known[key]}
        got = {(key, turn) for corpus, key, turn in heard if corpus == ask.corpus}
        book.equal(place, "questions heard that are not the first accepted", 0, len(got ^ first))
        total = sum(one.spoken for one in manifest.counts if one.corpus == ask.corpus)
        book.equal(place, "questions heard, of the selected", total, len(mine[:quota]))


def _check_bytes(store: Store, manifest: Manifest, samples: pa.Table, where: str, book: _Book) -> None:
    """Reads every tar the manifest names: its digest, and in it every sample's range and members."""
    shards = {}
    for number, stored in enumerate(manifest.shards):
        try:
            data = store.read(stored.path)
        except (NotThere, StorageFault) as error:
            book.check(where, False, str(error))
            continue
        book.equal(stored.path, "BLAKE3", stored.digest, digest(data))
        shards[number] = data
    columns = ("key", "shard", "offset", "length", "checksum", "speech_shard", "speech_offset", "speech_length")
    for row in samples.select([*columns, "speech_checksum", "spoken"]).to_pylist():
        for prefix in ("", "speech_"):
            number = row[f"{prefix}shard"]
            if number is None or number not in shards:
                continue
            begin = row[f"{prefix}offset"]
            span = shards[number][begin : begin + row[f"{prefix}length"]]
            place = f"{manifest.shards[number].path} {row['key']}"
            book.equal(place, "XXH3", row[f"{prefix}checksum"], checksum(span))
            try:
                names = [name for name, _ in members(span, row["key"], place)]
            except (Corrupt, ValueError) as error:
                book.check(place, False, f"not the members of this sample: {error}")
                continue
            wanted = [f"q{turn}.flac" for turn in row["spoken"]] if prefix else ["json"]
            book.check(place, set(wanted) <= set(names), f"has {names}, needs {wanted}")


def _check_nesting(store: Store, manifests: Sequence[Manifest], book: _Book) -> None:
    """Of two stages of one seed and lake, the smaller share of a corpus lies inside the larger."""
    chosen: dict[tuple[str, str, int], list[tuple[int, str, set[str]]]] = {}
    for manifest in manifests:
        try:
            tables = [get_table(store, manifest.tables[name], ("key", "corpus")) for name in ("samples", "unplaced")]
        except (Corrupt, NotThere, StorageFault, KeyError, pa.ArrowInvalid):
            continue  # found and said above
        for ask in manifest.asks:
            keys = {
                key
                for table in tables
                for key, corpus in zip(*(table[name].to_pylist() for name in ("key", "corpus")), strict=True)
                if corpus == ask.corpus
            }
            group = (manifest.model, ask.corpus, manifest.seed)
            chosen.setdefault(group, []).append((ask.available, manifest.name, keys))
    for (model, corpus, _), stages in chosen.items():
        ordered = sorted(stages, key=lambda stage: len(stage[2]))
        for (size, small, inner), (other, large, outer) in pairwise(ordered):
            if size == other:
                book.equal(f"{model} {corpus}", f"samples of {small} that are not in {large}", 0, len(inner - outer))


def _check_conservation(store: Store, snapshot: Snapshot, book: _Book, deep: bool) -> None:
    """Records in = samples + quarantined, counted in the stored tables; with `deep`, every object's digest."""
    for state in snapshot.corpora:
        where = f"corpus {state.corpus.name}"
        try:
            samples = sum(len(get_table(store, shard.index, ["key"])) for shard in state.shards)
            refused = get_table(store, state.quarantine, ["key", "code"], verify=True) if state.quarantine else None
            origins = get_tables(store, state.origins, ORIGINS, ["key"])
            objects: list[Stored] = [stored for shard in state.shards for stored in shard.objects]
            for stored in objects if deep else ():
                book.equal(stored.path, "BLAKE3", stored.digest, digest(store.read(stored.path)))
        except (Corrupt, NotThere, StorageFault, pa.ArrowInvalid) as error:
            book.check(where, False, str(error))
            continue
        gone = len(refused) if refused is not None else 0
        book.equal(where, "records read", state.records, len(origins))
        book.equal(where, "samples", state.samples, samples)
        book.equal(where, "quarantined", sum(state.quarantined.values()), gone)
        book.equal(where, "records = samples + quarantined", state.records, samples + gone)
        repeated = len(origins) - len(np.unique(np.array(origins["key"].to_pylist(), dtype="S32")))
        book.equal(where, "records with the same key", 0, repeated)

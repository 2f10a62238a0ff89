"""One stage of a manifest, recounted in SQL from the tables of the lake that it was planned from.

Nulls never pass: tables may have been tampered with, so that comparisons say `is distinct from` instead of `<>`.
"""

from collections import Counter
from fractions import Fraction
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.chat import PROMPTS, system_tokens
from tarsia.builders.packing import lower_bound
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table
from tarsia.builders.tokens import tokenizer
from tarsia.manifests.findings import Book
from tarsia.schemas.identity import redraws, start
from tarsia.schemas.lake import ORDER, Snapshot
from tarsia.schemas.manifest import Manifest
from tarsia.schemas.recipe import Recipe
from tarsia.schemas.shard import INDEX, SPEECH

_INDEX = ("key", "draw", "record", "language", "modality", "questions", "offset", "length", "checksum")
_SEEN = """(case when contains(modality::varchar, 'video') then 'video'
                 when contains(modality::varchar, 'image') then 'image' else 'text' end)"""


class StageTables(NamedTuple):
    """A manifest, and the tables it is compared with under their names in `sql`."""

    manifest: Manifest
    where: str
    source: Snapshot
    sql: duckdb.DuckDBPyConnection
    book: Book

    def one(self, query: str, *values: Any) -> tuple[Any, ...]:
        """The only row of a query."""
        row = self.sql.execute(query, values).fetchone()
        assert row is not None
        return tuple(row)

    def none(self, query: str, what: str, *values: Any) -> None:
        """A query that should find nothing; the first three that it finds are said."""
        found = self.sql.execute(f"{query} limit 3", values).fetchall()
        self.book.check(self.where, not found, f"{what}: {'; '.join(str(row) for row in found)}")


def recount(stage: StageTables, tables: dict[str, pa.Table], store: Store, recipe: Recipe | None) -> None:
    """Notes whatever of the stage is not as its manifest says; leaves its tables registered."""
    _register(stage, tables, store)
    for check in (_check_contexts, _check_samples, _check_rooms, _check_selection, _check_speech, _check_counts):
        with stage.book.reading(stage.where):
            check(stage)
    with stage.book.reading(stage.where):
        _check_header(stage, recipe)


def _register(stage: StageTables, tables: dict[str, pa.Table], store: Store) -> None:
    """Gives the tables of the manifest and of the lake their names; `chosen` is what the stage selected."""
    sql, manifest = stage.sql, stage.manifest
    sql.execute("drop table if exists due; drop table if exists no")  # another stage's
    rows = pa.array(np.arange(len(tables["samples"])))
    for name, table in {**tables, "samples": tables["samples"].append_column("row", rows)}.items():
        sql.register(name, table)
    facts = "key, corpus::varchar as corpus, kind::varchar as kind, language::varchar as lang, modality::varchar"
    sql.execute(
        f"""create or replace temp table chosen as
            select {facts} as modality, questions, tokens, seconds, spoken, true as placed from samples union all
            select {facts}, questions, tokens, seconds, null, false from unplaced"""
    )
    sql.execute("insert into everyone select ?, ?, ?, corpus, key from chosen",
                [manifest.model, manifest.seed, manifest.name])  # fmt: skip
    parts, spoken = [_index_of(INDEX.empty_table(), "", "")], [_located(SPEECH.empty_table(), "", "")]
    for state in stage.source.corpora:
        for shard in state.shards:
            table = get_table(store, shard.index, (*_INDEX, "audios"), verify=True)
            parts.append(_index_of(table, state.corpus.name, shard.tar.path))
    for speech in stage.source.speech:
        for shard in speech.shards:
            table = get_table(store, shard.index, verify=True).cast(SPEECH)
            spoken.append(_located(table, speech.corpus, shard.tar.path))
    sql.register("lake_index", pa.concat_tables(parts))
    sql.register("lake_speech", pa.concat_tables(spoken))
    tars = [stored.path for stored in manifest.shards]
    sql.register("tars", pa.table({"number": range(len(tars)), "path": pa.array(tars, pa.string())}))
    kinds = {state.corpus.name: state.corpus.kind.value for state in stage.source.corpora}
    names, values = (pa.array(list(part), pa.string()) for part in (kinds, kinds.values()))
    sql.register("corpora", pa.table({"corpus": names, "kind": values}))
    sql.register("prompts", pa.table({"prompt": list(manifest.prompts), "cost": list(manifest.prompts.values())}))


def _index_of(index: pa.Table, corpus: str, path: str) -> pa.Table:
    """What the checks need of an index, with the seconds of audio in each sample."""
    audios = index["audios"].combine_chunks()
    parts = audios.flatten()
    length = pc.divide(pc.struct_field(parts, "samples").cast(pa.float64()), pc.struct_field(parts, "rate"))
    seconds = np.bincount(pc.list_parent_indices(audios), length, len(index)).astype(np.float64)
    return _located(index.select(_INDEX).append_column("seconds", pa.array(seconds)), corpus, path)


def _located(table: pa.Table, corpus: str, path: str) -> pa.Table:
    """A table with the corpus and the tar that its rows belong to, names as plain strings."""
    plain = [column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.columns]
    names = [pa.array([name] * len(table), pa.string()) for name in (corpus, path)]
    return pa.table([*plain, *names], [*table.column_names, "corpus", "path"])


# --- the checks -----------------------------------------------------------------------------------------------------


def _check_header(stage: StageTables, recipe: Recipe | None) -> None:
    """The settings are those of the recipe, and the tars those of the snapshot."""
    manifest, where, book = stage.manifest, stage.where, stage.book
    alone = Recipe(
        model=manifest.model, seed=manifest.seed, context=manifest.context, stages={manifest.name: manifest.stage}
    )
    book.equal(where, "digest of the recipe", manifest.recipe, alone.digest)
    book.equal(where, "order", manifest.order, ORDER)
    if recipe is not None:
        book.equal(where, "model", manifest.model, recipe.model)
        book.equal(where, "seed", manifest.seed, recipe.seed)
        book.equal(where, "context", manifest.context, recipe.context)
        book.equal(where, "stage", manifest.stage, recipe.stages.get(manifest.name))
    words = tokenizer(manifest.context.tokenizer)
    book.equal(where, "prompts", manifest.prompts, {name: system_tokens(words, name) for name in PROMPTS})
    known = {shard.tar for state in stage.source.corpora for shard in state.shards}
    known |= {shard.tar for speech in stage.source.speech for shard in speech.shards}
    strange = [stored.path for stored in manifest.shards if stored not in known]
    book.check(where, not strange, f"tars that the lake's snapshot does not list: {strange[:3]}")
    if manifest.stage.spoken is None:
        book.equal(where, "voices of a silent stage", manifest.pool, None)


def _check_contexts(stage: StageTables) -> None:
    """Every context whole, within its budget, and what its row says."""
    stage.book.equal(stage.where, "contexts", stage.manifest.contexts, stage.one("select count(*) from contexts")[0])
    stage.none(
        f"""
        with sums as (
            select context, count(*) as n, sum(tokens) as t, sum(tiles) as s_tiles, sum(frames) as s_frames,
                   sum(audio_tokens) as s_audio, sum(seconds) as s_seconds, min(slot) as low, max(slot) as high,
                   count(distinct slot) as slots, bool_and(row - slot is not distinct from first) as in_place,
                   bool_or({_SEEN} = 'video') as video, bool_or({_SEEN} = 'image') as image
            from samples left join (select context, first from contexts) using (context) group by context),
        starts as (
            select context, coalesce(sum(samples) over (order by context rows between unbounded preceding
                   and 1 preceding), 0) as begins, row_number() over (order by context) - 1 as number from contexts)
        select 'context', c.context, 'recorded', c.tokens, 'its samples come to', s.t + p.cost from contexts c
        left join sums s using (context) left join prompts p on p.prompt = c.prompt::varchar
        left join starts f using (context)
        where c.samples is distinct from s.n or c.tokens is distinct from s.t + p.cost or c.tokens > $1
           or c.tiles is distinct from s_tiles or c.frames is distinct from s_frames
           or c.audio_tokens is distinct from s_audio or not coalesce(abs(c.seconds - s_seconds) <= 1e-6, false)
           or s.low is distinct from 0 or s.high is distinct from s.n - 1 or s.slots is distinct from s.n
           or not coalesce(in_place, false) or c.first is distinct from f.begins or c.context is distinct from f.number
           or (s.video and s.n > 1) or (s.n > 1 and not $2)
           or c.prompt::varchar is distinct from
              (case when s.video then 'video' when s.image then 'image' else 'text' end)
        order by 2
        """,
        "contexts that are not the sum of their samples, or differ from their row",
        stage.manifest.context.tokens,
        stage.manifest.stage.pack,
    )
    stage.none(
        "select key, context from samples where context is null or context not in (select context from contexts)",
        "samples without a context",
    )


def _check_samples(stage: StageTables) -> None:
    """Every sample once, and as the lake's index has it."""
    twice = stage.one("select count(*) - count(distinct key) from chosen")[0]
    stage.book.equal(stage.where, "samples selected twice", 0, twice)
    stage.none(
        """
        select s.key, s.corpus::varchar from samples s left join tars t on t.number = s.shard
        left join lake_index i on i.key = s.key and i.corpus = s.corpus::varchar
        where i.key is null or i.path is distinct from t.path or i."offset" is distinct from s."offset"
           or i.length is distinct from s.length or i.checksum is distinct from s.checksum order by 1
        """,
        "samples that do not lie where the lake's index has them",
    )
    stage.none(
        """
        select s.key, s.corpus from chosen s left join lake_index i on i.key = s.key and i.corpus = s.corpus
        left join corpora c on c.corpus = s.corpus
        where i.key is null or i.questions is distinct from s.questions or i.language is distinct from s.lang
           or i.modality is distinct from s.modality or c.kind is distinct from s.kind
           or not coalesce(s.seconds - i.seconds >= -1e-6, false) order by 1
        """,
        "samples that are not what the lake's index says",
    )


def _check_rooms(stage: StageTables) -> None:
    """Unplaced is what no context of its own could hold; the bound and the fill are those of what may be shared."""
    manifest, budget = stage.manifest, stage.manifest.context.tokens
    stage.sql.execute(
        f"""create or replace temp table rooms as
            select c.*, {_SEEN} as seen, $1 - p.cost as room from chosen c left join prompts p on p.prompt = {_SEEN}""",
        [budget],
    )
    least = stage.one("select min(room) from rooms where seen <> 'video'")[0]
    capacity = min(budget - manifest.prompts["text"], least if least is not None else budget)
    stage.book.equal(stage.where, "capacity", manifest.capacity, capacity)
    stage.none(
        """
        select r.key, r.tokens, r.room, u.reason from rooms r join unplaced u using (key) where not r.placed and
        (r.tokens <= r.room or u.reason is distinct from format('over-long: {} tokens, room for {}', r.tokens, r.room))
        order by 1
        """,
        "unplaced samples that would fit, or for another reason",
    )
    shared = stage.sql.sql(
        """select r.tokens, s.context from rooms r join samples s using (key)
           where r.placed and r.seen <> 'video' and $1 and r.tokens <= $2 and r.tokens > 0 and s.context is not null""",
        params=[manifest.stage.pack, capacity],
    ).fetchnumpy()
    costs, packs = np.asarray(shared["tokens"], np.int32), len(np.unique(shared["context"]))
    alone = stage.one("select count(*) from samples")[0] - len(costs)
    stage.book.equal(stage.where, "bound", manifest.bound, lower_bound(costs, capacity)[0] + alone)
    fullness = int(costs.sum(dtype=np.int64)) / (packs * capacity) if packs else 1.0
    stage.book.equal(stage.where, "fill", manifest.fill, fullness)


def _check_selection(stage: StageTables) -> None:
    """The selected samples are the first of the arc, and as many as asked."""
    manifest, book = stage.manifest, stage.book
    wanted = [state for state in stage.source.corpora if state.corpus.kind in manifest.stage.take]
    names = sorted(state.corpus.name for state in wanted)
    book.equal(stage.where, "corpora asked", sorted(ask.corpus for ask in manifest.asks), names)
    kinds = {state.corpus.name: state.corpus.kind for state in wanted}
    hours = Counter[str]()
    for corpus, seconds in stage.sql.execute("select corpus, sum(seconds) from lake_index group by 1").fetchall():
        hours[corpus] = seconds
    for ask in manifest.asks:
        where, amount = f"{stage.where} {ask.corpus}", manifest.stage.take[kinds[ask.corpus]]
        book.equal(where, "kind", ask.kind, kinds[ask.corpus])
        book.equal(where, "amount", ask.amount, str(amount))
        available, selected = stage.one(
            """select (select count(*) from lake_index where corpus = $1),
                      (select count(*) from chosen where corpus = $1)""",
            ask.corpus,
        )
        book.equal(where, "samples in the lake", ask.available, available)
        book.equal(where, "seconds in the lake", ask.available_seconds, hours[ask.corpus])
        if amount.unit == "%":
            book.equal(where, "asked", ask.samples, round(Fraction(amount.number) / 100 * available))
            book.equal(where, "selected", ask.samples, selected)
            book.equal(where, "seconds asked", ask.seconds, None)
        else:
            whole = sum(hours[name] for name, kind in kinds.items() if kind is ask.kind)
            asked = float(amount.number * 3600) * hours[ask.corpus] / whole if whole else 0.0
            book.equal(where, "samples asked", ask.samples, None)
            book.equal(where, "seconds asked", ask.seconds, asked)
            _check_hours(stage, where, ask.corpus, asked, selected, available)
        outside = stage.one(f"with {_ARC} select count(*) from chosen left join arc using (key)"
                            " where chosen.corpus = $1 and (place is null or place > $3)",
                            ask.corpus, str(start(manifest.seed)), selected)  # fmt: skip
        book.equal(where, "selected samples outside the arc", 0, outside[0])


_ARC = """arc as (select key, seconds, row_number() over (order by draw < $2::ubigint, draw, key) as place
                  from lake_index where corpus = $1)"""


def _check_hours(stage: StageTables, where: str, corpus: str, asked: float, selected: int, available: int) -> None:
    """As many samples as it takes to reach the seconds asked, and not one more."""
    reached, before = stage.one(
        f"""with {_ARC} select coalesce(sum(seconds) filter (place <= $3), 0),
                               coalesce(sum(seconds) filter (place < $3), 0) from arc""",
        corpus, str(start(stage.manifest.seed)), selected,
    )  # fmt: skip
    enough = reached >= asked - 1e-6 or selected == available
    stage.book.check(where, enough, f"seconds asked {asked}, selected {reached}")
    stage.book.check(where, not selected or before < asked + 1e-6, f"seconds asked {asked}, {before} were enough")


def _check_speech(stage: StageTables) -> None:
    """What is heard was accepted, is the first of what was accepted, and no more than asked. Leaves `due` and `no`."""
    manifest, book, sql = stage.manifest, stage.book, stage.sql
    fresh = "from lake_speech s join lake_index i on i.key = s.key and i.record = s.record and i.corpus = s.corpus"
    sql.execute(f"create or replace temp table no as select s.corpus, s.key, unnest(s.refused).turn as turn {fresh}")
    clips = sql.sql(
        f"""select corpus, key, draw, clip.turn as turn, clip.samples16 as samples16 from
            (select s.corpus, s.key, s.draw, unnest(s.clips) as clip {fresh})"""
    ).to_arrow_table()
    draws, turns = (clips[name].combine_chunks().to_numpy() for name in ("draw", "turn"))
    coins = redraws(draws.astype(np.uint64), "spoken", turns.astype(np.uint64))
    sql.register("clips", clips.append_column("coin", pa.array(coins)))
    asked = {ask.corpus: ask.spoken or 0 for ask in manifest.asks}
    sql.register("quotas", pa.table({"corpus": pa.array(list(asked), pa.string()), "quota": list(asked.values())}))
    sql.execute(
        """create or replace temp table due as select corpus, key, turn, samples16, placed from
           (select clips.*, c.placed, row_number() over (partition by clips.corpus order by coin, clips.key, turn)
            as place from clips join chosen c on c.key = clips.key and c.corpus = clips.corpus)
           join quotas using (corpus) where place <= quota"""
    )
    sql.execute(
        """create or replace temp table heard as
           select corpus::varchar as corpus, key, unnest(spoken) as turn from samples"""
    )
    stage.none(
        """(select 'heard', * from (select * from heard except select corpus, key, turn from due where placed))
           union all (select 'not heard', * from (select corpus, key, turn from due where placed except
           select * from heard))""",
        "questions heard that are not the first accepted, or the reverse",
    )
    stage.none(
        "select key, spoken from samples where spoken is distinct from list_sort(list_distinct(spoken))",
        "questions heard twice or out of order",
    )
    stage.none(
        """select s.key from samples s left join lake_speech l on l.key = s.key and l.corpus = s.corpus::varchar
           left join tars t on t.number = s.speech_shard
           where case when len(s.spoken) > 0 then t.path is distinct from l.path
                or s.speech_offset is distinct from l."offset" or s.speech_length is distinct from l.length
                or s.speech_checksum is distinct from l.checksum
           else coalesce(s.speech_shard, s.speech_offset, s.speech_length, s.speech_checksum) is not null end""",
        "samples whose speech lies elsewhere",
    )
    stage.none(
        """with said as (select key, sum(samples16) / 16000 as seconds from due group by key)
           select c.key, c.seconds from chosen c join lake_index i on i.key = c.key and i.corpus = c.corpus
           left join said on said.key = c.key
           where not coalesce(abs(c.seconds - i.seconds - coalesce(said.seconds, 0)) <= 1e-6, false)""",
        "samples with other seconds than their audio and their clips",
    )
    counted = dict(sql.execute("select corpus, sum(questions) from chosen group by 1").fetchall())
    for ask in manifest.asks:
        share = manifest.stage.spoken
        quota = round(share.number / 100 * counted.get(ask.corpus, 0)) if share else None
        book.equal(f"{stage.where} {ask.corpus}", "questions to be heard", ask.spoken, quota)


_SUMS = ("selected", "selected_questions", "selected_tokens", "selected_seconds", "placed", "placed_questions",
         "placed_tokens", "placed_seconds", "spoken", "placed_spoken", "refused")  # fmt: skip


def _check_counts(stage: StageTables) -> None:
    """Selected, placed and heard, by corpus, language and modality."""
    manifest, book = stage.manifest, stage.book
    rows = stage.sql.execute(
        """
        with said as (select key, count(*) as spoken from due group by key),
        refusals as (select key, count(*) as refused from no group by key),
        every as (select chosen.*, coalesce(said.spoken, 0) as said, coalesce(refused, 0) as refused
                  from chosen left join said using (key) left join refusals using (key))
        select corpus, kind, lang, modality, count(*), sum(questions), sum(tokens), sum(seconds),
               count(*) filter (placed), coalesce(sum(questions) filter (placed), 0),
               coalesce(sum(tokens) filter (placed), 0), coalesce(sum(seconds) filter (placed), 0),
               sum(said), coalesce(sum(said) filter (placed), 0), sum(refused) from every group by 1, 2, 3, 4
        """
    ).fetchall()
    found = {row[:4]: dict(zip(_SUMS, row[4:], strict=True)) for row in rows}
    claimed = {(one.corpus, one.kind.value, one.language, one.modality): one for one in manifest.counts}
    book.equal(stage.where, "groups of samples", len(manifest.counts), len(found))
    book.check(stage.where, claimed.keys() == found.keys(), f"other groups: {sorted(claimed.keys() ^ found.keys())}")
    for group in sorted(claimed.keys() & found.keys()):
        where, one = f"{stage.where} {' '.join(group)}", claimed[group]
        for name, value in found[group].items():
            if name != "refused" or manifest.stage.spoken:
                book.equal(where, name, getattr(one, name), value)
        if not manifest.stage.spoken:
            book.equal(where, "speakable, refused, pending", (one.speakable, one.refused, one.pending), (0, 0, 0))

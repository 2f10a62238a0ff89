"""One stage of a manifest, recounted in SQL from the tables of the lake that it was planned from.

Nulls never pass: tables may have been tampered with, so that comparisons say `is distinct from` instead of `<>`.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.buckets import fewest
from tarsia.builders.chat import PROMPTS, system_tokens
from tarsia.builders.packing import lower_bound
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table
from tarsia.builders.tokens import tokenizer
from tarsia.manifests.findings import StageTables
from tarsia.manifests.refollow import check_repair
from tarsia.manifests.reselect import check_selection, register_scope, register_takes
from tarsia.schemas.identity import redraws
from tarsia.schemas.lake import ORDER
from tarsia.schemas.manifest import WINDOW
from tarsia.schemas.recipe import Pack, Recipe
from tarsia.schemas.sample import Kind
from tarsia.schemas.shard import INDEX, SPEECH

_INDEX = ("key", "draw", "record", "language", "modality", "questions", "offset", "length", "checksum")


def _alone(pack: Pack | None) -> str:
    """SQL: whether a sample shares its context with nobody."""
    if pack is None or pack.seconds:
        return str(pack is None).lower()
    media, kinds = ("text", "image", "video", "audio"), [kind.value for kind in Kind]
    named = [f"contains(modality::varchar, '{name}')" for name in media if name in pack.alone]
    named += [f"kind::varchar = '{name}'" for name in kinds if name in pack.alone]
    return f"({' or '.join(named) or 'false'})"


def recount(stage: StageTables, tables: dict[str, pa.Table], store: Store, recipe: Recipe | None) -> None:
    """Notes whatever of the stage is not as its manifest says; leaves its tables registered."""
    _register(stage, tables, store)
    checks = (_check_contexts, _check_samples, _check_rooms, check_selection, _check_speech, _check_counts)
    for check in (*checks, _check_deviation):
        with stage.book.reading(stage.where):
            check(stage)
    with stage.book.reading(stage.where):
        _check_header(stage, recipe)
    with stage.book.reading(f"{stage.where} repaired"):
        check_repair(stage, store)


def _register(stage: StageTables, tables: dict[str, pa.Table], store: Store) -> None:
    """Gives the tables of the manifest and of the lake their names; `chosen` is what the stage selected."""
    sql, manifest = stage.sql, stage.manifest
    sql.execute("drop table if exists due; drop table if exists no")  # another stage's
    rows = pa.array(np.arange(len(tables["samples"])))
    for name, table in {**tables, "samples": tables["samples"].append_column("row", rows)}.items():
        sql.register(name, table)
    facts = "key, copy, corpus::varchar as corpus, kind::varchar as kind, language::varchar as lang, modality::varchar"
    sql.execute(
        f"""create or replace temp table chosen as
            select {facts} as modality, questions, tokens, seconds, spoken, true as placed from samples union all
            select {facts}, questions, tokens, seconds, null, false from unplaced"""
    )
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
    sql.register("own_prompts", pa.table({"prompt": list(manifest.prompts), "cost": list(manifest.prompts.values())}))
    shared = str(manifest.context.prompt == "context").lower()  # else no context bears the cost of a prompt
    cost = f"if({shared}, cost, 0) as cost"
    sql.execute(f"create or replace temp table prompts as select prompt, {cost} from own_prompts")
    sql.execute(
        """create or replace temp macro seen(modality) as case when contains(modality::varchar, 'video') then 'video'
           when contains(modality::varchar, 'image') then 'image' else 'text' end"""
    )
    _register_speech(stage)
    register_takes(stage)
    register_scope(stage)


def _register_speech(stage: StageTables) -> None:
    """The decisions on questions that are still what was said (`clips`, `no`), and how long samples last with them.

    Noise and text-to-speech without a sound of their own (`wanting`) last as long as the clip that was made of them.
    """
    sql = stage.sql
    fresh = "from lake_speech s join lake_index i on i.key = s.key and i.record = s.record and i.corpus = s.corpus"
    sql.execute(f"create or replace temp table no as select s.corpus, s.key, unnest(s.refused).turn as turn {fresh}")
    sql.execute(
        f"""create or replace temp table clips as
            select corpus, key, draw, clip.turn as turn, clip.samples16 as samples16 from
            (select s.corpus, s.key, s.draw, unnest(s.clips) as clip {fresh})"""
    )
    sql.execute(
        """create or replace temp table lasting as
           select i.*, c.kind in ('tts', 'noise') and i.modality = 'text' as wanting,
                  i.seconds + if(wanting, coalesce(v.samples16, 0) / 16000, 0) as lasts
           from lake_index i join corpora c on c.corpus = i.corpus
           left join clips v on v.key = i.key and v.corpus = i.corpus and v.turn = 0"""
    )


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
        book.equal(where, "stage", manifest.stage, recipe.stages.get(manifest.name))
        pack, page = manifest.stage.pack, recipe.context
        rows = pack is not None and pack.seconds is not None and page.prompt == "context"  # each under its own prompt
        own = {
            "tokens": (pack.tokens if pack else None) or page.tokens,
            "prompt": "sample" if rows else page.prompt,
            "guide": page.guide if manifest.stage.guide is None else manifest.stage.guide,
        }
        book.equal(where, "context", manifest.context, page.model_copy(update=own))
    words = tokenizer(manifest.context.tokenizer, manifest.context.words)
    book.equal(where, "vocabulary", manifest.vocabulary, words.digest)
    book.equal(where, "prompts", manifest.prompts, {name: system_tokens(words, name) for name in PROMPTS})
    known = {shard.tar for state in stage.source.corpora for shard in state.shards}
    known |= {shard.tar for speech in stage.source.speech for shard in speech.shards}
    strange = [stored.path for stored in manifest.shards if stored not in known]
    book.check(where, not strange, f"tars that the lake's snapshot does not list: {strange[:3]}")
    if manifest.stage.spoken is None and not stage.one("select count(*) from wanted")[0]:
        book.equal(where, "voices of a silent stage", manifest.pool, None)


def _check_contexts(stage: StageTables) -> None:
    """Every context whole, within its budget, and what its row says; no sample meets a copy of itself."""
    manifest, pack = stage.manifest, stage.manifest.stage.pack
    most = (pack.tiles if pack else None) or 2**31
    seconds, samples = (pack.seconds, pack.samples) if pack and pack.seconds else (None, 2**31)
    stage.book.equal(stage.where, "contexts", stage.manifest.contexts, stage.one("select count(*) from contexts")[0])
    stage.none(
        f"""
        with sums as (
            select context, count(*) as n, sum(tokens) as t, sum(tiles) as s_tiles, sum(frames) as s_frames,
                   sum(audio_tokens) as s_audio, sum(seconds) as s_seconds, max(tokens) as t_most,
                   if($4::double is null, null, max(seconds) * count(*)) as s_padded,
                   min(slot) as low, max(slot) as high,
                   count(distinct slot) as slots, bool_and(row - slot is not distinct from first) as in_place,
                   bool_or(seen(modality) = 'video') as video, bool_or(seen(modality) = 'image') as image,
                   bool_or({_alone(manifest.stage.pack)}) as alone,
                   count(*) - count(distinct key) as repeated
            from samples left join (select context, first from contexts) using (context) group by context),
        starts as (
            select context, coalesce(sum(samples) over (order by context rows between unbounded preceding
                   and 1 preceding), 0) as begins, row_number() over (order by context) - 1 as number from contexts)
        select 'context', c.context, 'recorded', c.tokens, 'its samples come to', s.t + p.cost from contexts c
        left join sums s using (context) left join prompts p on p.prompt =
              (case when s.video then 'video' when s.image then 'image' else 'text' end)
        left join starts f using (context)
        where c.samples is distinct from s.n or c.tokens is distinct from s.t + p.cost
           or if($4::double is null, c.tokens, t_most) > $1
           or s_padded > $4::double + 1e-6 or s.n > $5
           or (s_padded is null) is distinct from (c.padded_seconds is null)
           or abs(s_padded - c.padded_seconds) > 1e-6
           or c.tiles is distinct from s_tiles or c.frames is distinct from s_frames
           or c.audio_tokens is distinct from s_audio or not coalesce(abs(c.seconds - s_seconds) <= 1e-6, false)
           or s.low is distinct from 0 or s.high is distinct from s.n - 1 or s.slots is distinct from s.n
           or not coalesce(in_place, false) or c.first is distinct from f.begins or c.context is distinct from f.number
           or (s.alone and s.n > 1) or s.repeated > 0 or c.tiles + c.frames > $2
           or c.prompt::varchar is distinct from if($3 = 'context', p.prompt, $3)
        order by 2
        """,
        "contexts that are not the sum of their samples, or differ from their row",
        manifest.context.tokens,
        most,
        manifest.context.prompt,
        seconds,
        samples,
    )
    stage.none(
        "select key, context from samples where context is null or context not in (select context from contexts)",
        "samples without a context",
    )


def _check_samples(stage: StageTables) -> None:
    """Every sample once, and as the lake's index has it."""
    twice = stage.one("select count(*) - count(distinct (key, copy)) from chosen")[0]
    stage.book.equal(stage.where, "samples selected twice", 0, twice)
    stage.none(
        """
        select s.key, s.corpus::varchar from samples s left join tars t on t.number = s.shard
        left join lake_index i on i.key = s.key and i.corpus = s.corpus::varchar
        where i.key is null or i.path is distinct from t.path or i."offset" is distinct from s."offset"
           or i.length is distinct from s.length or i.checksum is distinct from s.checksum or i.length = 0 order by 1
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
    manifest, budget, pack = stage.manifest, stage.manifest.context.tokens, stage.manifest.stage.pack
    most = (pack.tiles if pack else None) or 2**31
    stage.sql.execute(
        f"""create or replace temp table rooms as
            select c.*, {_alone(pack)} as alone, $1 - p.cost as room from chosen c
            left join prompts p on p.prompt = seen(modality)""",
        [budget],
    )
    stage.sql.execute(
        """create or replace temp table wanted as select c.key, c.copy, c.corpus, c.placed, v.key is not null as made,
           n.key is not null as refused from chosen c
           join lasting i on i.key = c.key and i.corpus = c.corpus and i.wanting and i.length > 0
           left join clips v on v.key = c.key and v.corpus = c.corpus and v.turn = 0
           left join no n on n.key = c.key and n.corpus = c.corpus and n.turn = 0"""
    )
    stage.none(
        """select w.key, w.copy, u.reason from wanted w left join unplaced u using (key, copy)
           where w.placed and not w.made or not w.placed and not w.made and u.reason is distinct from
           if(w.refused, 'unspoken: refused', 'unspoken: pending') order by 1, 2""",
        "samples that nobody has said, placed or unplaced for another reason",
    )
    least = stage.one("select min(room) from rooms where not alone")[0]
    text = stage.one("select cost from prompts where prompt = 'text'")[0]
    capacity = min(budget - text, least if least is not None else budget)
    stage.book.equal(stage.where, "capacity", manifest.capacity, capacity)
    stage.none(
        """
        select r.key, r.tokens, r.room, u.reason from rooms r join unplaced u using (key, copy)
        join lake_index i on i.key = r.key and i.corpus = r.corpus
        left join wanted w on w.key = r.key and w.copy = r.copy where not r.placed and coalesce(w.made, true) and
        case when i.length = 0 then u.reason is distinct from 'taken-down'
             when r.tokens > r.room then u.reason is distinct from format('over-long: {} tokens, room for {}',
                                                                          r.tokens, r.room)
             when $2::double is not null and r.seconds = 0
                  then u.reason is distinct from 'silent: no sound to be batched by'
             when $2::double is not null then r.seconds <= $2::double or u.reason is distinct from
                  format('over-lasting: {:.3f} seconds, room for {:.3f}', r.seconds, $2::double)
        else not regexp_full_match(u.reason, 'over-tiled: [0-9]+ tiles and frames, room for ' || $1)
             or try_cast(regexp_extract(u.reason, '[0-9]+') as bigint) <= $1 end
        order by 1
        """,
        "unplaced samples that would fit, or for another reason",
        most,
        pack.seconds if pack else None,
    )
    if pack and pack.seconds:
        _check_batches(stage, pack.seconds, pack.samples)
        return
    book, where = stage.book, stage.where
    book.equal(where, "padding", manifest.padding, None)
    shared = stage.sql.sql(
        """select r.tokens, s.tiles + s.frames as units, s.context from rooms r join samples s using (key, copy)
           where r.placed and not r.alone and r.tokens <= $1 and r.tokens > 0 and s.context is not null""",
        params=[capacity],
    ).fetchnumpy()
    costs, packs = np.asarray(shared["tokens"], np.int32), len(np.unique(shared["context"]))
    units = np.asarray(shared["units"], np.int32) if pack and pack.tiles else None
    alone = stage.one("select count(*) from samples")[0] - len(costs)
    bound, binding = lower_bound(costs, capacity, units, pack.tiles if pack else None)
    book.equal(where, "bound", manifest.bound, bound + alone)
    book.equal(where, "binding", manifest.binding, binding)
    fullness = int(costs.sum(dtype=np.int64)) / (packs * capacity) if packs else 1.0
    book.equal(where, "fill", manifest.fill, fullness)


def _check_batches(stage: StageTables, budget: float, most: int) -> None:
    """The bound, fill and padding of batches by seconds, from the seconds of their samples."""
    manifest, book, where = stage.manifest, stage.book, stage.where
    lengths = stage.sql.sql("select round_even(seconds * 1e6, 0)::bigint as length from samples").fetchnumpy()["length"]
    bound, binding = fewest(np.asarray(lengths, np.int64), round(budget * 1e6), most)
    book.equal(where, "bound", manifest.bound, bound)
    book.equal(where, "binding", manifest.binding, binding)
    seconds, padded, batches = stage.one(
        """select coalesce(sum(real), 0), coalesce(sum(padded), 0), count(*) from
           (select sum(seconds) as real, max(seconds) * count(*) as padded from samples group by context)"""
    )
    book.equal(where, "fill", manifest.fill, seconds / (batches * budget) if batches else 1.0)
    book.equal(where, "padding", manifest.padding, padded / seconds - 1 if seconds else 0.0)


def _check_speech(stage: StageTables) -> None:
    """What is heard was accepted, is the first of what was accepted, and no more than asked. Leaves `due`."""
    manifest, book, sql = stage.manifest, stage.book, stage.sql
    sql.execute(
        """create or replace temp table of_chosen as
           select b.take, c.corpus, c.key, c.copy, c.placed, v.draw, v.turn, v.samples16 from clips v
           join chosen c on c.key = v.key and c.corpus = v.corpus
           join belongs b on b.corpus = c.corpus and b.lang = c.lang and b.modality = c.modality"""
    )
    of_chosen = sql.sql("select * from of_chosen").to_arrow_table()
    draws, turns, copies = (of_chosen[name].combine_chunks().to_numpy().astype(np.uint64)
                            for name in ("draw", "turn", "copy"))  # fmt: skip
    coins = redraws(draws, "spoken", turns + copies * np.uint64(2**32))
    sql.register("coined", of_chosen.append_column("coin", pa.array(coins)))
    quotas = [(ask.corpus, ask.take, ask.spoken or 0) for ask in manifest.asks]
    columns = list(zip(*quotas, strict=True)) or [(), (), ()]
    types = (pa.string(), pa.int32(), pa.int64())
    arrays = [pa.array(list(column), kind) for column, kind in zip(columns, types, strict=True)]
    sql.register("quotas", pa.table(arrays, ["corpus", "take", "quota"]))
    sql.execute(
        """create or replace temp table due as select corpus, key, copy, turn, samples16, placed from
           (select *, row_number() over (partition by corpus, take order by coin, key, turn, copy) as place from coined)
           join quotas using (corpus, take) where place <= quota"""
    )
    sql.execute(
        """create or replace temp table heard as
           select corpus::varchar as corpus, key, copy, unnest(spoken) as turn from samples"""
    )
    stage.none(
        """(select 'heard', * from (select * from heard except select corpus, key, copy, turn from due where placed))
           union all (select 'not heard', * from (select corpus, key, copy, turn from due where placed except
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
        """with said as (select key, copy, sum(samples16) / 16000 as seconds from due group by all)
           select c.key, c.seconds from chosen c join lake_index i on i.key = c.key and i.corpus = c.corpus
           left join said on said.key = c.key and said.copy = c.copy
           where not coalesce(abs(c.seconds - i.seconds - coalesce(said.seconds, 0)) <= 1e-6, false)""",
        "samples with other seconds than their audio and their clips",
    )
    by_take = """select c.corpus, take, sum(c.questions) from chosen c join belongs using (corpus, lang, modality)
                 join lake_index i on i.key = c.key and i.corpus = c.corpus where i.length > 0 group by all"""
    counted = {(corpus, take): questions for corpus, take, questions in sql.execute(by_take).fetchall()}
    by_take = """select c.corpus, b.take, count(*) from wanted w join chosen c using (key, copy)
                 join belongs b on b.corpus = c.corpus and b.lang = c.lang and b.modality = c.modality group by all"""
    needed = {(corpus, take): count for corpus, take, count in sql.execute(by_take).fetchall()}
    for ask in manifest.asks:
        share = manifest.stage.spoken
        quota = round(share.number / 100 * counted.get((ask.corpus, ask.take), 0)) if share else None
        if ask.kind in (Kind.TTS, Kind.NOISE):
            quota = needed.get((ask.corpus, ask.take), 0 if share else None)
        book.equal(f"{stage.where} {ask.corpus}", "questions to be heard", ask.spoken, quota)


_SUMS = ("selected", "selected_questions", "selected_tokens", "selected_seconds", "placed", "placed_questions",
         "placed_tokens", "placed_seconds", "spoken", "placed_spoken", "refused")  # fmt: skip


def _check_counts(stage: StageTables) -> None:
    """Selected, placed and heard, by corpus, language and modality."""
    manifest, book = stage.manifest, stage.book
    rows = stage.sql.execute(
        """
        with said as (select key, copy, count(*) as spoken from due group by all),
        refusals as (select key, count(*) as refused from no group by key),
        every as (select chosen.*, coalesce(said.spoken, 0) as said, coalesce(refused, 0) as refused
                  from chosen left join said using (key, copy) left join refusals using (key))
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

    def listened(group: tuple[str, ...]) -> bool:
        return manifest.stage.spoken is not None or (group[1] in ("tts", "noise") and group[3] == "text")

    for group in sorted(claimed.keys() & found.keys()):
        where, one = f"{stage.where} {' '.join(group)}", claimed[group]
        for name, value in found[group].items():
            if name != "refused" or listened(group):
                book.equal(where, name, getattr(one, name), value)
        if not listened(group):
            book.equal(where, "speakable, refused, pending", (one.speakable, one.refused, one.pending), (0, 0, 0))


def _check_deviation(stage: StageTables) -> None:
    """The corpus and the window of contexts whose share of tokens is furthest from that of the stage."""
    claimed = stage.manifest.deviation
    furthest = stage.sql.execute(
        f"""
        with tokens as (select corpus::varchar as corpus, context // {WINDOW} as number, sum(tokens) as t from samples
                        group by all),
        everywhere as (select corpus, sum(t) / (select sum(t) from tokens) as share from tokens group by corpus),
        windows as (select number, sum(t) as t from tokens where number < {stage.manifest.contexts // WINDOW}
                    group by 1),
        pairs as (select e.corpus, w.number, coalesce(k.t, 0) / w.t as inside, e.share as whole
                  from windows w cross join everywhere e left join tokens k on k.number = w.number
                  and k.corpus = e.corpus)
        select corpus, number, inside, whole, abs(inside - whole), max(abs(inside - whole)) over () from pairs
        """
    ).fetchall()
    stage.book.equal(stage.where, "whether there is a window", claimed is not None, bool(furthest))
    if claimed is None or not furthest:
        return
    where = f"{stage.where} window {claimed.window} {claimed.corpus}"
    mine = [row for row in furthest if row[:2] == (claimed.corpus, claimed.window)]
    stage.book.check(where, bool(mine), "no such corpus or window")
    for _, _, inside, whole, distance, largest in mine:
        stage.book.equal(where, "share of tokens", claimed.share, inside)
        stage.book.equal(where, "share of tokens in the stage", claimed.whole, whole)
        stage.book.check(where, distance >= largest - 1e-6, f"deviation {distance} is not the largest, {largest} is")

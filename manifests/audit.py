"""Every figure of a manifest, computed again from what is stored, by other means than those that made it.

The audit imports nothing of select, decide, costs or plan. It recounts each stage from the tables of manifest and lake
(`recount`: is it the recipe's stage, is every sample placed once and whole, is the selection exactly the arc of the
circle that share and seed name, do the counts add up, is what is heard the first of what was accepted), looks between
the stages (does a smaller share lie inside a larger one) and at the lake (did every record end as a sample or in
quarantine). `deep` reads every byte and counts every token again (`reread`).

A **finding** names the place and the two figures that disagree. No findings: the manifest is true. What cannot be read
is a finding too: the audit always ends with a report.
"""

from collections.abc import Sequence
from itertools import pairwise

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.lake import Lake
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table, get_tables, rows_digest
from tarsia.manifests.findings import Audit, Book, Finding, StageTables
from tarsia.manifests.recount import recount
from tarsia.manifests.reread import Claim, reread
from tarsia.manifests.reread_packs import reread_packs
from tarsia.schemas.lake import CorpusState, Snapshot
from tarsia.schemas.manifest import CONTEXTS, SAMPLES, UNPLACED, Manifest
from tarsia.schemas.recipe import Recipe
from tarsia.schemas.shard import INDEX, ORIGINS, QUARANTINE, TOMBSTONES

__all__ = ["Audit", "Finding", "audit"]


def audit(lake: Lake, manifests: Sequence[Manifest], *, recipe: Recipe | None = None, deep: bool = False) -> Audit:
    """Recomputes the manifests and the lake they were planned from; compares them with the recipe, where one is given.

    `deep` reads every byte that they point to, and counts every token again.
    """
    book, claims = Book(), list[Claim]()
    snapshots = _snapshots(lake, book)
    with duckdb.connect() as sql:
        sql.execute("create table everyone (model varchar, seed hugeint, stage varchar, corpus varchar, "
                    "scope varchar, key varchar)")  # fmt: skip
        for manifest in manifests:
            where = f"{manifest.model}/{manifest.name}"
            with book.reading(where):
                source = _planned_from(manifest, snapshots)
                book.check(where, source is not None, "no snapshot of the lake is the one it was planned from")
                tables = _tables(lake.store, manifest, where, book)
                if source is not None and tables:
                    stage = StageTables(manifest, where, source, sql, book)
                    recount(stage, tables, lake.store, recipe)
                    claims.append(_claim(stage, tables))
        _check_nesting(sql, manifests, book)
        for state in snapshots[0].corpora if snapshots else ():
            with book.reading(f"corpus {state.corpus.name}"):
                _check_conservation(sql, lake.store, state, book)
    if deep:
        reread(lake.store, snapshots[:1], claims, book)
        for claim in claims:
            with book.reading(claim.where):
                reread_packs(lake.store, claim, book)
    return Audit(checks=book.checks, findings=tuple(book.findings))


def _snapshots(lake: Lake, book: Book) -> list[Snapshot]:
    """All snapshots that can be read, the newest first."""
    found = []
    with book.reading("snapshots"):
        numbers = lake.numbers()
        book.check("snapshots", bool(numbers), "the lake has none")
        for number in reversed(numbers):
            with book.reading(f"snapshot {number}"):
                found.append(lake.snapshot(number))
    return found


def _planned_from(manifest: Manifest, snapshots: Sequence[Snapshot]) -> Snapshot | None:
    parts = (snapshot.part(manifest.stage.wants, manifest.pool) for snapshot in snapshots)
    return next((part for part in parts if part.digest == manifest.lake), None)


def _tables(store: Store, manifest: Manifest, where: str, book: Book) -> dict[str, pa.Table] | None:
    tables = {}
    for name, schema in (("contexts", CONTEXTS), ("samples", SAMPLES), ("unplaced", UNPLACED)):
        stored = manifest.tables.get(name)
        book.check(where, stored is not None, f"the manifest has no table '{name}'")
        if stored is not None:
            table = get_table(store, stored, verify=True)
            book.equal(where, f"columns of '{name}'", schema.names, table.column_names)
            tables[name] = table.select(schema.names).cast(schema)
            book.equal(where, f"logical digest of '{name}'", manifest.rows.get(name), rows_digest(tables[name]))
    return tables if len(tables) == 3 else None


def _claim(stage: StageTables, tables: dict[str, pa.Table]) -> Claim:
    """What `deep` compares with the bytes."""
    due: dict[tuple[str, int], dict[int, int]] = {}
    waiting = "select key, copy, turn, samples16 from due where not placed"
    for key, copy, turn, samples16 in stage.sql.execute(waiting).fetchall():
        due.setdefault((key, copy), {})[turn] = samples16
    unplaced: dict[str, dict[int, int]] = {}
    for key, copy, tokens in zip(*(tables["unplaced"][name].to_pylist() for name in ("key", "copy", "tokens")),
                                 strict=True):  # fmt: skip
        unplaced.setdefault(key, {})[copy] = tokens
    decided = stage.sql.execute(
        """select c.corpus, lang, modality, count(*) from chosen c join
           (select corpus, key, turn from clips union select corpus, key, turn from no) v
           on c.key = v.key and c.corpus = v.corpus group by 1, 2, 3"""
    ).fetchall()
    takes = stage.sql.execute("select corpus, lang, modality, take from belongs").fetchall()
    return Claim(
        stage.where,
        stage.manifest,
        stage.source,
        tables["samples"],
        unplaced,
        due,
        {row[:3]: row[3] for row in decided},
        {row[:3]: row[3] for row in takes},
    )


# --- between the stages, and the lake -------------------------------------------------------------------------------


def _check_nesting(sql: duckdb.DuckDBPyConnection, manifests: Sequence[Manifest], book: Book) -> None:
    """Of two stages of one seed that take of the same samples of a corpus, the smaller lies inside the larger."""
    sizes: dict[tuple[str, int, str, str, str], list[tuple[int, str]]] = {}
    grouped = "select model, seed, stage, corpus, scope, count(*) from everyone group by all"
    for model, seed, stage, corpus, scope, size in sql.execute(grouped).fetchall():
        available = [ask.available for one in manifests for ask in one.asks
                     if (one.model, one.seed, one.name, ask.corpus) == (model, int(seed), stage, corpus)]  # fmt: skip
        sizes.setdefault((model, int(seed), corpus, scope, str(available)), []).append((size, stage))
    for (model, seed, corpus, scope, _), stages in sorted(sizes.items()):
        for (_, small), (_, large) in pairwise(sorted(stages)):
            missing = sql.execute(
                """select count(*) from (select key from everyone where model = $1 and seed = $2 and corpus = $3 and
                   scope = $4 and stage = $5 except select key from everyone where model = $1 and seed = $2 and
                   corpus = $3 and scope = $4 and stage = $6)""",
                [model, seed, corpus, scope, small, large],
            ).fetchall()
            book.equal(f"{model} {corpus}", f"samples of {small} that are not in {large}", 0, missing[0][0])


def _check_conservation(sql: duckdb.DuckDBPyConnection, store: Store, state: CorpusState, book: Book) -> None:
    """Every record that was read is a sample or a row in quarantine, once, counted in the stored tables."""
    where = f"corpus {state.corpus.name}"
    columns = ("key", "draw", "questions", "length")
    parts = [INDEX.empty_table().select(columns)]
    for shard in state.shards:
        table = get_table(store, shard.index, columns, verify=True)
        book.equal(where, f"samples of {shard.leaf}", shard.samples, len(table))
        stands = table.filter(pc.greater(table["length"], 0))
        book.equal(where, f"samples taken down of {shard.leaf}", shard.taken_down, len(table) - len(stands))
        book.equal(where, f"questions of {shard.leaf}", shard.questions, pc.sum(stands["questions"]).as_py() or 0)
        bits = {f"{draw:064b}"[: len(shard.leaf) - 1] for draw in pc.min_max(table["draw"]).as_py().values()}
        book.equal(where, f"bits that the draws of {shard.leaf} begin with", {shard.leaf[1:]}, bits)
        parts.append(table)
    index = pa.concat_tables(parts)
    draws = index["draw"].to_numpy()
    book.equal(where, "samples out of draw order", 0, int((draws[1:] < draws[:-1]).sum()))
    stored = [state.quarantine] if state.quarantine else []
    quarantine = get_tables(store, stored, QUARANTINE, ["key", "code"])
    origins = get_tables(store, state.origins, ORIGINS, ["key"])
    taken = get_tables(store, [state.tombstones] if state.tombstones else [], TOMBSTONES, ["key", "sample"])
    tables = {"index_all": index, "quarantine": quarantine, "origins": origins, "tombstones": taken}
    for name, table in tables.items():
        sql.register(name, table)
    sql.execute("create or replace temp view index_keys as select * from index_all where length > 0")
    codes = dict(sorted(sql.execute("select code, count(*) from quarantine group by 1").fetchall()))
    book.equal(where, "quarantined", state.quarantined, codes)
    standing = len(index) - pc.sum(taken["sample"]).as_py() if len(taken) else len(index)
    book.equal(where, "taken down", state.taken_down, len(taken))
    book.equal(where, "records read", state.records, len(origins) + len(taken))
    book.equal(
        where, "records = samples + quarantined + taken down", state.records, standing + len(quarantine) + len(taken)
    )
    ended = "select key from index_keys union all select key from quarantine"
    for name, query in (
        ("records with the same key", "select count(*) - count(distinct key) from origins"),
        ("records that are sample and quarantined", f"select count(*) - count(distinct key) from ({ended})"),
        ("records that came to nothing", f"select count(*) from (select key from origins except ({ended}))"),
        ("samples that no record is known of", f"select count(*) from (({ended}) except select key from origins)"),
        (
            "samples taken down that have no tombstone, or the reverse",
            "select count(*) from (select key from index_all where length = 0) i full join "
            "(select key from tombstones where sample) t using (key) where i.key is null or t.key is null",
        ),
        ("keys without their draw", "select count(*) from index_all where printf('%016x', draw) <> key[:16]"),
    ):
        book.equal(where, name, 0, sql.execute(query).fetchall()[0][0])

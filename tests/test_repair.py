"""A repaired plan moves what a change touched, and nothing else."""

import io
import itertools

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tarsia.builders.tables import as_schema, put_table, rows_digest
from tarsia.manifests.account import Account
from tarsia.manifests.audit import audit
from tarsia.manifests.facts import lean
from tarsia.manifests.order import Order
from tarsia.manifests.repair import Parent, mend
from tarsia.manifests.runs import audit_runs
from tarsia.manifests.stream import Stream, load_manifest, manifest_digest
from tarsia.pipelines import plan as pipelines_plan
from tarsia.pipelines.pack import pack
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.errors import Drift, UserError
from tarsia.schemas.identity import key_of
from tarsia.schemas.manifest import SAMPLES
from tests.lakes import chats, fill, pictures, plan, questions, recipe, rows
from tests.test_takedown import take

PAGE = {"a": {"take": {"qa": "100%"}}}
SMALL = {"tokens": 260}  # a context of some samples


def contexts(lake, manifest):
    """Context -> its keys, in order of slots."""
    found = {}
    for row in rows(lake, manifest):
        found.setdefault(row["context"], []).append((row["key"], row["copy"], row["tokens"], row["checksum"]))
    return found


def must(before, after):
    """The contexts of a parent that hold a sample which is not what it was."""
    now = {row for context in after.values() for row in context}
    return {number for number, context in before.items() if not set(context) <= now}


@pytest.mark.parametrize("change", ["edited", "added", "removed", "taken down", "all of it"])
def test_only_contexts_that_a_change_touched_are_dissolved(tmp_path, change):
    records = questions(300)
    page = recipe(PAGE, **SMALL)
    lake = fill(tmp_path, {"qa": ({"cap": 32}, records), "chats": chats(40)})
    parent = plan(lake, page)[0]
    before = contexts(lake, parent)
    if change in ("edited", "all of it"):
        records[11]["output"] += " and a word more"
        records[170]["output"] = "short"
    if change in ("removed", "all of it"):
        records = [record for number, record in enumerate(records) if number not in (40, 41, 200)]
    if change in ("added", "all of it"):
        records = records + questions(3, first=1000)
    lake = fill(tmp_path, {"qa": ({"cap": 32}, records), "chats": chats(40)})
    if change in ("taken down", "all of it"):
        take(lake, ("qa", "r77"), ("qa", "r78"))
    repaired = plan(lake, page, repair=True)[0]
    after = contexts(lake, repaired)
    touched = must(before, after)
    assert {number for number in before if after[number] != before[number]} == touched
    assert repaired.repaired.kept == len(before) - len(touched)
    assert repaired.repaired.parents == (manifest_digest(parent),)
    assert len(after) >= len(before)
    assert sorted(after) == list(range(repaired.contexts))
    scratch = plan(lake, page, replace=True)[0]
    assert {row[:2] for rows_ in contexts(lake, scratch).values() for row in rows_} == {
        row[:2] for rows_ in after.values() for row in rows_
    }


def test_a_repaired_plan_is_audited_as_any_other_and_told_from_one_from_scratch(tmp_path):
    page = recipe(PAGE, **SMALL)
    lake = fill(tmp_path, {"qa": questions(100)})
    plan(lake, page)
    lake = fill(tmp_path, {"qa": questions(103)})
    take(lake, ("qa", "r5"))
    repaired = plan(lake, page, repair=True)
    assert audit(lake, repaired, recipe=page, deep=True).findings == ()
    assert plan(lake, page, repair=True) == repaired
    assert load_manifest(lake.url, "small/a") == repaired[0]
    with pytest.raises(Drift, match="it was repaired"):
        plan(lake, page)
    again = fill(tmp_path, {"qa": questions(104)})
    twice = plan(again, page, repair=True)[0]
    assert twice.repaired.parents == (*repaired[0].repaired.parents, manifest_digest(repaired[0]))
    assert plan(lake, page, replace=True)[0].repaired is None


def test_packed_tars_without_a_touched_context_stay(tmp_path):
    page, records = recipe(PAGE, **SMALL), questions(300)
    lake = fill(tmp_path, {"qa": records})
    before = contexts(lake, plan(lake, page)[0])
    with open_pool(1, patience=0) as pool:
        old = pack(lake, ["small/a"], pool, shard_bytes=20 << 10, quiet=True)["small/a"]
        records[11]["output"] += " and a word more"
        lake = fill(tmp_path, {"qa": records})
        repaired = plan(lake, page, repair=True)[0]
        new = pack(lake, ["small/a"], pool, shard_bytes=20 << 10, quiet=True)["small/a"]
    after = contexts(lake, repaired)
    touched = {number for number in after if after[number] != before.get(number)}
    stay = [one for one in old if not touched & set(range(one.first, one.first + one.contexts))]
    assert 0 < len(stay) < len(old)
    assert [one for one in stay if one not in new] == []
    assert audit(lake, [repaired], deep=True).findings == ()


def test_a_claim_to_have_kept_more_than_was_kept_is_found(tmp_path):
    page = recipe(PAGE, **SMALL)
    lake = fill(tmp_path, {"qa": questions(100)})
    plan(lake, page)
    lake = fill(tmp_path, {"qa": questions(103)[3:]})
    repaired = plan(lake, page, repair=True)[0]
    told = repaired.repaired
    for wrong in (
        told.model_copy(update={"kept": told.kept + 1}),
        told.model_copy(update={"before": told.before + 1}),
        told.model_copy(update={"first": told.first - 1}),
        told.model_copy(update={"parents": ("0" * 64,)}),
    ):
        found = audit(lake, [repaired.model_copy(update={"repaired": wrong})], recipe=page).findings
        assert any("repaired" in one.where for one in found), wrong


def test_a_changed_byte_in_what_is_kept_of_a_parent_is_found(tmp_path):
    page = recipe(PAGE, **SMALL)
    lake = fill(tmp_path, {"qa": questions(60)})
    parent = plan(lake, page)[0]
    take(lake, ("qa", "r5"))
    repaired = plan(lake, page, repair=True)
    assert audit(lake, repaired, recipe=page).findings == ()
    header = next((tmp_path / "lake/stages/small/a/parents").iterdir())
    stones = next((tmp_path / "lake/tombstones/corpora/qa").iterdir())
    for path in (header, tmp_path / "lake" / parent.tables["samples"].path, stones):
        true = path.read_bytes()
        path.write_bytes(true[: len(true) // 2] + bytes([true[len(true) // 2] ^ 1]) + true[len(true) // 2 + 1 :])
        where = "corpus qa" if path == stones else "small/a repaired"
        assert [one.where for one in audit(lake, repaired, recipe=page).findings] == [where], path
        path.write_bytes(true)


def test_samples_that_changed_places_without_need_are_found(tmp_path):
    page = recipe(PAGE, **SMALL)
    lake = fill(tmp_path, {"qa": questions(100)})
    before = contexts(lake, plan(lake, page)[0])
    lake = fill(tmp_path, {"qa": questions(130)})
    repaired = plan(lake, page, repair=True)[0]
    assert (repaired.contexts > len(before), repaired.repaired.kept) == (True, len(before))
    table = rows(lake, repaired)
    one, two = (next(at for at, row in enumerate(table) if row["context"] == number) for number in (2, 7))
    place = ("context", "slot")
    table[one], table[two] = (
        {**table[a], **{name: table[b][name] for name in place}} for a, b in ((two, one), (one, two))
    )
    changed = pa.Table.from_pylist(table, SAMPLES)
    wrong = repaired.model_copy(
        update={
            "tables": {**repaired.tables, "samples": put_table(lake.store, "stages/small/a/samples", changed)},
            "rows": {**repaired.rows, "samples": rows_digest(changed)},
            "repaired": repaired.repaired.model_copy(update={"kept": len(before) - 2}),
        }
    )
    found = [one.what for one in audit(lake, [wrong], recipe=page).findings if one.where == "small/a repaired"]
    assert found == ["contexts that a repair moved without need: recorded 0, found 2"]


def test_a_stage_whose_corpora_did_not_change_is_left_unread(tmp_path, monkeypatch):
    page = recipe({"a": {"take": {"qa": "100%"}}, "b": {"take": {"caption": "100%"}}}, **SMALL)
    told = {"kind": "caption"}
    lake = fill(tmp_path, {"qa": questions(60), "told": (told, questions(40))})
    before = plan(lake, page)
    planned, real = [], pipelines_plan.plan
    monkeypatch.setattr(pipelines_plan, "plan", lambda page, name, *rest, **more: (
        planned.append(name), real(page, name, *rest, **more))[1])  # fmt: skip
    assert plan(lake, page, repair=True) == before
    assert planned == []
    lake = fill(tmp_path, {"qa": questions(60), "told": (told, questions(43))})
    after = plan(lake, page, repair=True)
    assert (planned, after[0] == before[0], after[1].repaired.before) == (["b"], True, before[1].contexts)
    with pytest.raises(Drift, match="a repair follows changes of the lake alone"):
        plan(lake, recipe({"a": {"take": {"qa": "100%"}, "title": "other"}}, **SMALL), repair=True)


def test_a_run_goes_on_where_it_stood_in_the_parent(tmp_path):
    page = recipe(PAGE, **SMALL)
    lake = fill(tmp_path, {"qa": questions(200)})
    before = plan(lake, page)[0]
    stream = Stream(lake.url, "small/a", batch=4, epochs=3)
    seen = [
        context.number for batch in itertools.islice(stream, before.contexts // 4 + 4) for context in batch.contexts
    ]
    state = stream.state_dict()
    rest = [context.number for batch in stream for context in batch.contexts][len(seen) :]
    lake = fill(tmp_path, {"qa": questions(220)[2:]})
    after = plan(lake, page, repair=True)[0]
    assert after.contexts > before.contexts
    stream = Stream(lake.url, "small/a", batch=4, epochs=3)
    stream.load_state_dict(state)
    now = [context.number for batch in stream for context in batch.contexts]
    old = [number for number in now if number < before.contexts]
    assert old == rest
    assert sorted(set(now)) == list(range(after.contexts))
    with pytest.raises(UserError, match="saved with manifest"):
        stream.load_state_dict({**state, "manifest": "0" * 32})


def test_a_number_that_a_lone_sample_left_is_filled_from_a_neighbour(tmp_path):
    page = recipe(PAGE, tokens=4000)
    shown = pictures(tmp_path, [(448, 448), (448, 448)])
    lake = fill(tmp_path, {"qa": questions(80), "shown": ({"format": "llava"}, shown)})
    parent = plan(lake, recipe({"a": {"take": {"qa": "100%"}, "pack": {"alone": ["image"]}}}, tokens=4000))[0]
    page = recipe({"a": {"take": {"qa": "100%"}, "pack": {"alone": ["image"]}}}, tokens=4000)
    before = contexts(lake, parent)
    gone = next(number for number, context in before.items() if len(context) == 1)
    own = next(record["id"] for record in shown if key_of("shown", f"{record['id']}") == before[gone][0][0])
    take(lake, ("shown", f"{own}"))
    repaired = plan(lake, page, repair=True)[0]
    after = contexts(lake, repaired)
    assert sorted(after) == sorted(before)
    assert sum(after[number] != before[number] for number in before) == 2
    assert audit(lake, [repaired], recipe=page).findings == ()


def test_a_repair_follows_no_change_of_the_recipe(tmp_path):
    lake = fill(tmp_path, {"qa": questions(20)})
    plan(lake, recipe(PAGE, **SMALL))
    with pytest.raises(Drift, match=r"context\.tokens was 260, is 300; a repair follows changes of the lake alone"):
        plan(lake, recipe(PAGE, tokens=300), repair=True)


def test_what_a_repair_added_comes_last_in_every_epoch():
    plain, longer = Order("5" * 64, 10, window=4), Order("5" * 64, 10, window=4, more=3)
    for epoch in range(3):
        first = [plain.context(epoch, position) for position in range(10)]
        assert [longer.context(epoch, position) for position in range(13)] == [*first, 10, 11, 12]
        assert longer.epoch(epoch).tolist() == [*first, 10, 11, 12]


def test_copies_of_a_sample_stay_apart_in_a_repaired_plan(tmp_path):
    page = recipe({"a": {"take": {"qa": "200%"}}}, **SMALL)
    lake = fill(tmp_path, {"qa": questions(60)})
    plan(lake, page)
    take(lake, ("qa", "r5"), ("qa", "r6"))
    repaired = plan(lake, page, repair=True)
    for context in contexts(lake, repaired[0]).values():
        assert len({key for key, *_ in context}) == len(context)
    assert audit(lake, repaired, recipe=page).findings == ()


def samples(keys, context=None):
    count = len(keys)
    columns = {
        "key": [f"{key:016x}{key:016x}" for key in keys],
        "copy": [0] * count,
        **{name: [1] * count for name in ("tokens", "tiles", "frames", "audio_tokens", "checksum", "speech_checksum")},
        "spoken": pa.array([[]] * count, pa.list_(pa.int32())),
    }
    return pa.table({**columns, **({"context": context} if context is not None else {})})


def stored(table):
    """As a parent's samples are read: some rows at a time."""
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=1000)
    return pq.ParquetFile(pa.BufferReader(sink.getvalue()))


def held(table):
    """As a plan holds its samples: keys as bytes, in pieces."""
    fields = lean(pa.field(name, kind) for name, kind in zip(table.column_names, table.schema.types, strict=True))
    parts = [as_schema(table.slice(begin, 1700), fields) for begin in range(0, len(table), 1700)]
    return pa.concat_tables([fields.empty_table(), *parts])


def mended(before, now, *, each):
    """`before`: lists of keys; `now`: keys; contexts of `each` samples."""
    flat = [key for context in before for key in context]
    numbers = [number for number, context in enumerate(before) for _ in context]

    def filled(order):
        return order, np.append(np.arange(0, len(order), each), len(order))

    every = np.ones(len(now), bool)
    parent = Parent(len(before), stored(samples(flat, numbers)))
    done = mend(parent, held(samples(now)), every, every, np.arange(len(now)), filled)
    found = [
        [now[row] for row in done.rows[begin:end]] for begin, end in zip(done.starts, done.starts[1:], strict=False)
    ]
    return found, done.kept


def test_mend_fills_freed_numbers_first_and_halves_what_is_large():
    assert mended([[1, 2], [3, 4], [5]], [1, 2, 3, 5], each=2) == ([[1, 2], [3], [5]], 2)
    assert mended([[1, 2], [3, 4], [5]], [1, 2, 3, 5, 6, 7], each=2) == ([[1, 2], [3, 6], [5], [7]], 2)
    assert mended([[1, 2, 3], [4], [5]], [1, 2, 3, 5], each=3) == ([[1, 2], [3], [5]], 1)
    assert mended([[1], [2]], [1, 2], each=1) == ([[1], [2]], 2)
    with pytest.raises(UserError, match="1 contexts would stay empty"):
        mended([[1], [2]], [1], each=1)


def changed(table, name, row, value):
    values = table[name].to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))


@pytest.mark.parametrize(
    ("name", "value"), [("tokens", 2), ("checksum", 2), ("speech_checksum", None), ("spoken", [2]), ("spoken", [1, 2])]
)
def test_a_sample_that_is_not_what_it_was_dissolves_its_context_and_no_other(name, value):
    before = samples(range(6), [0, 0, 1, 1, 2, 2])
    for row, spoken in enumerate(([1], [], [1], [0, 1], [], [3])):
        before = changed(before, "spoken", row, spoken)
    now = before.drop_columns("context")
    every, pairs = np.ones(6, bool), lambda order: (order, np.arange(0, len(order) + 1, 2))
    done = mend(Parent(3, stored(before)), held(now), every, every, np.arange(6), pairs)
    assert (done.rows.tolist(), done.starts.tolist(), done.kept) == ([0, 1, 2, 3, 4, 5], [0, 2, 4, 6], 3)
    for row in (0, 2, 5):
        changes = held(changed(now, name, row, value))
        assert mend(Parent(3, stored(before)), changes, every, every, np.arange(6), pairs).kept == 2


def test_a_copy_is_not_taken_for_another_nor_a_sample_for_one_of_the_same_draw():
    keys = ["aa" * 8 + f"{rest:016x}" for rest in (5, 5, 7, 7, 9)]
    before = changed(changed(samples(range(5), [0, 0, 1, 1, 2]), "copy", 1, 1), "copy", 3, 1)
    before = before.set_column(0, "key", pa.array(keys))
    now = before.drop_columns("context").take(pa.array([4, 3, 1, 0]))  # without the first copy of the second
    every = np.ones(4, bool)
    done = mend(Parent(3, stored(before)), held(now), every, every, np.arange(4), lambda rows: (rows, np.array([0, 1])))
    assert (done.rows.tolist(), done.starts.tolist(), done.kept) == ([3, 2, 1, 0], [0, 2, 3, 4], 2)


def test_one_percent_touches_no_more_than_it_must():
    rng = np.random.default_rng(5)
    sizes = rng.integers(3, 9, 4000)
    keys = rng.permutation(int(sizes.sum()))
    before = [part.tolist() for part in np.split(keys, np.cumsum(sizes)[:-1])]
    gone = set(rng.choice(keys, len(keys) // 100, replace=False).tolist())
    now = sorted({*keys.tolist(), *range(len(keys), len(keys) + len(keys) // 200)} - gone)
    after, kept = mended(before, now, each=6)
    least = sum(bool(gone & set(context)) for context in before)
    touched = sum(old != new for old, new in zip(before, after, strict=False))
    assert (touched, kept) == (least, len(before) - least)
    assert sorted(key for context in after for key in context) == now


@pytest.mark.parametrize("done", [3, 11, 14, 22])
def test_a_run_that_went_on_after_a_repair_is_audited_under_both_manifests(tmp_path, done):
    page = recipe(PAGE, **SMALL)
    lake = fill(tmp_path, {"qa": questions(200)})
    before = plan(lake, page)[0]
    stream = Stream(lake.url, "small/a", batch=4, epochs=3)
    account = Account(stream)
    for batch in itertools.islice(stream, done):
        account.add(batch)
    kept = orjson.loads(orjson.dumps({"stream": stream.state_dict(), "account": account.state_dict()}))
    account.log(str(tmp_path / "run.jsonl"), done)
    lake = fill(tmp_path, {"qa": questions(220)[2:]})
    after = plan(lake, page, repair=True)[0]
    parted = audit_runs(lake, [str(tmp_path / "run.jsonl")], so_far=True)
    assert parted.findings == ()  # what the parent had handed out by then
    stream = Stream(lake.url, "small/a", batch=4, epochs=3)
    stream.load_state_dict(kept["stream"])
    ranks = [Account(stream), Account(stream)]
    ranks[0].load_state_dict(kept["account"])
    rest = list(stream)
    for batch in rest:
        ranks[0].add(batch)
    both = ranks[0] + ranks[1]
    both.log(str(tmp_path / "run.jsonl"), done + len(rest))
    result = audit_runs(lake, [str(tmp_path / "run.jsonl")])
    assert result.findings == ()
    (run,) = result.runs
    over = done * 4 // before.contexts  # epochs that were over before the repair have no context that it added
    assert (run.manifests, run.contexts) == (2, 3 * after.contexts - over * (after.contexts - before.contexts))
    assert run.promised == run.contexts
    assert all(one.samples == one.promised_samples and one.tokens == one.promised_tokens for one in run.figures)
    assert {group.corpus: row["samples"] for group, row in both.figures().items()} == {
        one.corpus: one.samples for one in run.figures
    }
    line = orjson.loads((tmp_path / "run.jsonl").read_bytes().splitlines()[-1])
    for change, said in (
        (lambda page: page["before"][0]["figures"][0].update(tokens=1), "tokens of qa, qa, en, text: recorded 1"),
        (lambda page: page.pop("before"), "never handed out: 0 to"),
        (lambda page: page["before"].append({**page["before"][0], "manifest": "0" * 32}), "manifest: recorded 0000"),
        (lambda page: page["covered"][0]["edges"].append([0, 1]), "handed out more than once"),
    ):
        page_of = orjson.loads(orjson.dumps(line))
        change(page_of)
        (tmp_path / "wrong.jsonl").write_bytes(orjson.dumps(page_of) + b"\n")
        found = audit_runs(lake, [str(tmp_path / "wrong.jsonl")]).findings
        assert any(said in one.what for one in found), (said, found)
    with pytest.raises(UserError, match="this account is of manifest 0000"):
        Account(stream).load_state_dict({**kept["account"], "manifest": "0" * 32})

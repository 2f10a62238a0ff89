"""What a change does to plans and lakes: told before it is made, to the sample."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakes import chats, fill, pictures, plan, questions, recipe, rows, tone, voice

from tarsia.builders.tables import get_table
from tarsia.manifests.difference import PLACED, contexts, corpora, met, placed
from tarsia.manifests.stream import load_manifest
from tarsia.pipelines import diff
from tarsia.pipelines.cli import app
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.errors import Corrupt, NotThere, UnknownName, UserError
from tarsia.schemas.identity import key_of
from tests.test_takedown import take

LLAVA = {"format": "llava"}
HALF = {"all": {"take": {"qa": "50%"}, "spoken": "20%"}}
MORE = {"all": {"take": {"qa": "70%"}, "spoken": "20%"}}


def lake_of(folder, **others):
    corpora = {"sums": questions(60), "talk": (LLAVA, chats(30)), **others}
    return fill(folder, corpora, cap=16)


@pytest.fixture
def town(tmp_path, monkeypatch):
    """A lake planned by half, with voices."""
    pool = tone(tmp_path, monkeypatch)
    lake = lake_of(tmp_path)
    voice(lake, recipe(HALF, tokens=1024), pool)
    plan(lake, recipe(HALF, tokens=1024), voices="tone")
    return lake


def asked(lake, page, **options):
    with open_pool(1) as pool:
        return list(diff.of_recipe(page, lake, pool, quiet=True, **options))


def held(lake, manifest):
    """The samples of each context in their order, as a set of tuples."""
    found: dict[int, list] = {}
    for row in rows(lake, manifest):
        what = (row["tokens"], tuple(row["spoken"]), row["checksum"], row["speech_checksum"])
        found.setdefault(row["context"], []).append((row["key"], row["copy"], *what))
    return {number: tuple(samples) for number, samples in found.items()}


# --- a recipe before it is planned ----------------------------------------------------------------------------------


def test_a_recipe_is_compared_with_what_stands_before_anything_is_planned(town):
    before = load_manifest(town.url, "small/all")
    (one,) = asked(town, recipe(MORE, tokens=1024), voices="tone")
    assert load_manifest(town.url, "small/all") == before
    assert one.settings == ("stage.take.qa was 50%, is 70%",)
    assert one.before != one.after
    (after,) = plan(town, recipe(MORE, tokens=1024), voices="tone", replace=True, pending_as_text=True)

    was, now = held(town, before), held(town, after)
    assert one.kept == len({*was.values()} & {*now.values()})
    assert one.in_place == sum(now.get(number) == samples for number, samples in was.items())
    assert (one.contexts_before, one.contexts_after) == (len(was), len(now))
    fresh = {number for number, samples in now.items() if samples not in set(was.values())}
    read = [row["length"] + (row["speech_length"] or 0) for row in rows(town, after) if row["context"] in fresh]
    assert one.bytes == sum(read)
    for change in one.corpora:
        then, later = (
            {sample[:2]: sample[2:] for samples in side.values() for sample in samples if sample[0] in keys}
            for side, keys in ((was, keys_of(town, before, change.corpus)), (now, keys_of(town, after, change.corpus)))
        )
        both = then.keys() & later.keys()
        assert change.kept == sum(then[name] == later[name] for name in both)
        assert change.changed == len(both) - change.kept
        assert (change.added, change.removed) == (len(later.keys() - both), len(then.keys() - both))
        assert change.before.tokens == sum(what[0] for what in then.values())
        assert change.after.tokens == sum(what[0] for what in later.values())
        assert change.after.spoken == sum(len(what[1]) for what in later.values())
    assert one.corpora[0].added > 0
    assert one.corpora[0].removed == 0  # half lies inside of seven tenths


def keys_of(lake, manifest, corpus):
    return {row["key"] for row in rows(lake, manifest) if row["corpus"] == corpus}


def test_questions_that_a_voice_has_to_say_first_are_those_that_it_is_then_asked(town, tmp_path):
    page = recipe(MORE, tokens=1024)
    (one,) = asked(town, page, voices="tone")
    waiting = {change.corpus: change.waiting for change in one.corpora}
    assert sum(waiting.values()) > 3
    before = town.numbers()[-1]
    voice(town, page, str(tmp_path / "tone.yaml"))
    (then,) = asked(town, page, voices="tone")
    assert {change.corpus: change.waiting for change in then.corpora} == dict.fromkeys(waiting, 0)
    said = diff.of_snapshots(town, before, town.numbers()[-1]).speech
    assert {one.corpus: one.added + one.refused for one in said} == waiting


def test_the_same_recipe_changes_nothing_and_a_new_stage_is_all_new(town):
    stages = {**HALF, "next": {"take": {"qa": "10%"}}}
    same, new = asked(town, recipe(stages, tokens=1024), voices="tone")
    assert (same.settings, same.lake, same.kept) == ((), False, same.contexts_after)
    assert same.kept == same.in_place == same.contexts_before
    assert all(change.kept == change.after.samples for change in same.corpora)
    assert (new.before, new.contexts_before, new.kept) == (None, 0, 0)
    assert all(change.added == change.after.samples for change in new.corpora)


def test_a_changed_lake_is_told_apart_from_a_changed_recipe(town, tmp_path):
    records = questions(60)
    records[7]["output"] = "Nothing at all."
    lake_of(tmp_path, sums=records[1:])
    (one,) = asked(town, recipe({"all": {"take": {"qa": "100%"}}}, tokens=1024))
    assert one.lake
    (one,) = asked(town, recipe(HALF, tokens=1024), voices="tone")
    assert (one.lake, one.settings) == (True, ())
    assert one.kept < one.contexts_after


# --- two plans that stand -------------------------------------------------------------------------------------------


def test_two_stages_are_compared_whatever_lake_they_lie_in(town, tmp_path):
    plan(town, recipe({"some": {"take": {"qa": "30%"}}}, tokens=1024))
    one = diff.between(town, "small/all", "small/some")
    assert (one.stage, one.against) == ("small/some", "small/all")
    assert "stage.take.qa was 50%, is 30%" in one.settings
    assert {change.added for change in one.corpora} == {0}
    other = fill(tmp_path, {"sums": questions(60), "talk": (LLAVA, chats(31))}, cap=16, lake="other")
    plan(other, recipe({"some": {"take": {"qa": "30%"}}}, tokens=1024))
    moved = diff.between(town, "small/some", elsewhere=other)
    assert (moved.against, moved.settings, moved.lake) == (None, (), True)
    assert {change.corpus: (change.added, change.removed, change.changed) for change in moved.corpora}["sums"] == (
        0,
    ) * 3


def test_a_repaired_plan_is_compared_with_its_parent(tmp_path):
    page = recipe({"all": {"take": {"qa": "100%"}}}, tokens=1024)
    lake = lake_of(tmp_path)
    plan(lake, page)
    with pytest.raises(UserError, match="planned from scratch; say what to compare it with"):
        diff.between(lake, "small/all")
    take(lake, ("sums", "r7"))
    (repaired,) = plan(lake, page, repair=True)
    one = diff.between(lake, "small/all")
    assert one.after != one.before
    assert one.in_place == repaired.repaired.kept
    assert [change.removed for change in one.corpora] == [1, 0]
    assert one.lake


def test_a_table_that_lost_a_row_is_corrupt(town):
    manifest = load_manifest(town.url, "small/all")
    table = get_table(town.store, manifest.tables["samples"])
    with pytest.raises(Corrupt, match="has not as many rows"):
        placed([table.slice(1)], len(table))
    with pytest.raises(Corrupt, match="has not as many rows"):
        placed([table], len(table) - 1)


# --- columns --------------------------------------------------------------------------------------------------------

SAMPLE = st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(0, 2), st.lists(st.integers(0, 2), max_size=2))
PLANS = st.lists(st.lists(SAMPLE, min_size=1, max_size=3), max_size=5)


def table_of(plan):
    """Rows of SAMPLES: contexts of (sample, copy, tokens, heard turns); a sample stands once."""
    seen, flat = set(), []
    for number, samples in enumerate(plan):
        for sample, copy, tokens, heard in samples:
            if (sample, copy) not in seen:
                seen.add((sample, copy))
                flat.append((number, sample, copy, tokens, sorted(set(heard))))
    kept = sorted({number for number, *_ in flat})
    flat = [(kept.index(number), *rest) for number, *rest in flat]
    columns = {
        "key": pa.array([key_of("c", str(row[1])) for row in flat], pa.string()),
        "copy": pa.array([row[2] for row in flat], pa.int32()),
        "corpus": pa.array(["ab"[row[1] % 2] for row in flat], pa.string()).dictionary_encode(),
        "context": pa.array([row[0] for row in flat], pa.int32()),
        "tokens": pa.array([row[3] for row in flat], pa.int32()),
        "spoken": pa.array([row[4] for row in flat], pa.list_(pa.int32())),
        "seconds": pa.array([0.5] * len(flat), pa.float64()),
        "checksum": pa.array([row[1] for row in flat], pa.uint64()),
        "speech_length": pa.array([3 if row[4] else None for row in flat], pa.int64()),
        "speech_checksum": pa.array([9 if row[4] else None for row in flat], pa.uint64()),
    }
    columns |= {"questions": columns["copy"], "length": pa.array([7] * len(flat), pa.int64())}
    return pa.table([columns[name] for name in PLACED], list(PLACED)), flat


@settings(max_examples=60, deadline=None)
@given(PLANS, PLANS, st.integers(1, 4))
def test_plans_are_compared_as_sets_of_samples_and_of_contexts_would_be(one, two, size):
    (was, before), (now, after) = table_of(one), table_of(two)
    cut = [now.slice(begin, size) for begin in range(0, len(now), size)]
    first, second = placed([was] if len(was) else [], len(was)), placed(cut, len(now))
    old = {(row[1], row[2]): (row[3], row[4]) for row in before}
    new = {(row[1], row[2]): (row[3], row[4]) for row in after}
    for change in corpora(first, second):
        mine = {name for name in {*old, *new} if "ab"[name[0] % 2] == change.corpus}
        both = [name for name in mine if name in old and name in new]
        assert change.kept == sum(old[name] == new[name] for name in both)
        assert change.changed == sum(old[name] != new[name] for name in both)
        assert change.added == sum(name not in old for name in mine)
        assert change.removed == sum(name not in new for name in mine)
        assert change.after.spoken == sum(len(new[name][1]) for name in mine if name in new)
    there, here = _contexts(before), _contexts(after)
    stays = contexts(first, second)
    assert stays.kept == sum(one in there for one in here)
    assert stays.in_place == sum(one == other for one, other in zip(there, here, strict=False))
    assert stays.bytes == sum(7 + 3 * bool(row[3]) for one in here if one not in there for row in one)


def _contexts(flat):
    found: dict[int, list] = {}
    for number, *rest in flat:
        found.setdefault(number, []).append(rest)
    return [found[number] for number in sorted(found)]


def test_names_meet_in_any_order():
    before, after = (np.array(values, np.uint64) for values in ([5, 3, 2**63, 8], [8, 4, 2**63, 5, 0]))
    assert met(before, after).tolist() == [3, -1, 2, 0, -1]
    assert met(before[:0], after).tolist() == [-1] * 5


# --- snapshots ------------------------------------------------------------------------------------------------------


def test_snapshots_tell_what_came_went_was_edited_rewritten_and_taken_down(tmp_path):
    looks = pictures(tmp_path, [(900, 300), (64, 64), (48, 48)])
    first = {"sums": questions(40), "looks": (LLAVA, looks), "still": (LLAVA, chats(9)), "past": questions(5, first=90)}
    lake = fill(tmp_path, first, cap=8)
    records = questions(43)[1:]
    records[4]["output"] = "Nothing at all."
    records[5]["output"] = ""
    again = {"looks": ({**LLAVA, "images": {"longest": 500}}, looks), "still": first["still"], "new": questions(3)}
    fill(tmp_path, {"sums": records, **again}, cap=8)
    take(lake, ("sums", "r20"))
    numbers = lake.numbers()
    found = diff.of_snapshots(lake, 1, numbers[-1])
    changes = {one.corpus: one for one in found.corpora}
    sums, looks = changes["sums"], changes["looks"]
    assert (sums.added, sums.removed, sums.edited, sums.taken_down, sums.rewritten) == (3, 2, 1, 1, 0)
    assert sums.quarantined == {"answer-empty": 1}
    assert sums.samples == (40, 40)
    assert (looks.rewritten, looks.edited, looks.added, looks.removed) == (1, 0, 0, 0)
    assert len(looks.entry) == 1
    assert "images was" in looks.entry[0]
    assert (changes["new"].presence, changes["new"].added) == ("added", 3)
    assert "still" not in changes
    assert Counter(one.presence for one in found.corpora)["added"] == 1
    assert diff.of_snapshots(lake, 1, 1).corpora == ()
    back = {one.corpus: one for one in diff.of_snapshots(lake, numbers[-1], 1).corpora}
    assert (back["new"].presence, back["new"].removed) == ("removed", 3)


def test_snapshots_tell_what_voices_said(town, tmp_path):
    page = recipe(MORE, tokens=1024)
    before = town.numbers()[-1]
    voice(town, page, str(tmp_path / "tone.yaml"))
    found = diff.of_snapshots(town, before, town.numbers()[-1])
    assert found.corpora == ()
    assert sum(one.added for one in found.speech) > 0
    assert {(one.pool, one.removed, one.respoken) for one in found.speech} == {("tone", 0, 0)}


def test_snapshots_that_are_not_there_or_were_pruned_are_said(town):
    with pytest.raises(UnknownName, match="no snapshot '99'"):
        diff.of_snapshots(town, 1, 99)
    for entry in list(town.store.list("speech")):
        town.store.delete(entry.path)
    with pytest.raises(NotThere, match="`tarsia prune` has deleted what snapshot 1 lists"):
        diff.of_snapshots(town, 1, town.numbers()[-1])


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_shows_each_comparison_and_wants_exactly_one(town, tmp_path, capsys):
    page = tmp_path / "more.yaml"
    page.write_text(json.dumps(recipe(MORE, tokens=1024).model_dump(mode="json", exclude_defaults=True)))

    def run(*words):
        app(["diff", town.url, *words, "--workers", "1", "--quiet"], standalone_mode=False)
        return capsys.readouterr().out

    out = run("--recipe", str(page), "--voices", str(tmp_path / "tone.yaml"))
    assert "  stage.take.qa was 50%, is 70%\n" in out
    assert "questions wait for a voice first (tarsia speak); they count as text here" in out
    assert json.loads(run("--snapshots", "1", "2", "--json"))["before"] == 1
    assert run("small/all", "small/all") == "small/all: the same samples in the same contexts\n"
    with pytest.raises(UserError, match="say one thing to compare"):
        run()
    with pytest.raises(UserError, match="say one thing to compare"):
        run("small/all", "--recipe", str(page))

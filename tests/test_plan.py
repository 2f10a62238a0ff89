"""A plan: exact, stable, whole samples within the budget, the same bytes whoever makes it."""

from base64 import b64encode

import duckdb
import pytest
from lakes import (
    chats,
    clips,
    files,
    fill,
    keys,
    pictures,
    plan,
    questions,
    recipe,
    recordings,
    rendered_tokens,
    rows,
    say,
    tone,
    voice,
)

from tarsia.manifests.audit import audit
from tarsia.manifests.stream import Stream
from tarsia.pipelines.corpora import Corpora
from tarsia.pipelines.pack import pack
from tarsia.pipelines.pool import open_pool
from tarsia.pipelines.show import planned
from tarsia.schemas.errors import Corrupt, Drift, Pending

LLAVA = {"format": "llava"}
VIDEO = {"format": "video"}
SPEECH = {"format": "librispeech", "kind": "asr", "files": "LibriSpeech/*/*/*/*.trans.txt"}
HALF = {"small": {"take": {"qa": "50%"}}}


def total(manifest, name):
    return sum(getattr(one, name) for one in manifest.counts)


# --- what is selected -----------------------------------------------------------------------------------------------


def test_each_corpus_gives_its_own_rounded_share(tmp_path):
    lake = fill(tmp_path, {"a": questions(25), "b": questions(40), "c": questions(3)})
    (manifest,) = plan(lake, recipe({"x": {"take": {"qa": "10%"}}}))
    assert [(ask.corpus, ask.available, ask.samples) for ask in manifest.asks] == [
        ("a", 25, 2), ("b", 40, 4), ("c", 3, 0),
    ]  # fmt: skip
    assert [len(keys(lake, manifest, name)) for name in "abc"] == [2, 4, 0]
    assert (total(manifest, "selected"), total(manifest, "placed")) == (6, 6)


def test_smaller_stages_lie_inside_larger_ones_and_another_seed_takes_others(tmp_path):
    lake = fill(tmp_path, {"a": questions(60)})
    stages = {name: {"take": {"qa": name + "%"}} for name in ("4", "20", "100")}
    small, middle, large = (keys(lake, one) for one in plan(lake, recipe(stages)))
    assert small < middle < large
    assert (len(small), len(middle), len(large)) == (2, 12, 60)
    others = plan(lake, recipe(stages, seed=2), replace=True)
    assert keys(lake, others[1]) != middle


def test_a_new_corpus_moves_nothing_of_another(tmp_path):
    lake = fill(tmp_path, {"a": questions(60)})
    (before,) = plan(lake, recipe(HALF))
    fill(tmp_path, {"a": questions(60), "b": questions(33)})
    (after,) = plan(lake, recipe(HALF), replace=True)
    assert keys(lake, after, "a") == keys(lake, before)
    assert len(keys(lake, after, "b")) == 16


def test_an_edited_record_keeps_its_place_and_moves_no_other(tmp_path):
    records = questions(60)
    lake = fill(tmp_path, {"a": records})
    (before,) = plan(lake, recipe(HALF))
    records[7]["output"] = "Nobody knows."
    fill(tmp_path, {"a": records})
    (after,) = plan(lake, recipe(HALF), replace=True)
    assert keys(lake, after) == keys(lake, before)


def test_a_record_more_adds_itself_alone_or_the_next_of_the_arc(tmp_path):
    lake = fill(tmp_path, {"a": questions(60)})
    (before,) = plan(lake, recipe(HALF))
    fill(tmp_path, {"a": questions(62)})
    (after,) = plan(lake, recipe(HALF), replace=True)
    assert len(keys(lake, after) - keys(lake, before)) <= 3
    assert len(keys(lake, before) - keys(lake, after)) <= 2


def test_hours_take_the_fewest_recordings_that_reach_them(tmp_path):
    recordings(tmp_path, [1 + number % 5 / 2 for number in range(20)])
    lake = fill(tmp_path, {"talk": (SPEECH, None)})
    (manifest,) = plan(lake, recipe({"x": {"take": {"asr": "0.005h"}, "pack": False}}))
    lengths = [row["seconds"] for row in rows(lake, manifest)]
    assert manifest.asks[0].seconds == 18.0
    assert sum(lengths) >= 18.0
    assert sum(lengths) - max(lengths) < 18.0
    assert total(manifest, "selected_seconds") == sum(lengths)
    assert not audit(lake, [manifest], deep=True).findings


@pytest.mark.parametrize("share", ["0%", "1%"])
def test_a_share_that_comes_to_nothing_is_an_empty_stage(tmp_path, share):
    lake = fill(tmp_path, {"a": questions(20)})
    (manifest,) = plan(lake, recipe({"x": {"take": {"qa": share}, "spoken": "50%"}}))
    assert (manifest.contexts, manifest.bound, manifest.fill, manifest.counts) == (0, 0, 1.0, ())
    assert manifest.asks[0].samples == 0
    assert end_to_end(lake, manifest) == (0, [])


def test_a_stage_without_any_corpus_of_its_kind_works_from_plan_to_audit(tmp_path):
    lake = fill(tmp_path, {"a": questions(20)})
    (manifest,) = plan(lake, recipe({"x": {"take": {"caption": "100%", "tts": "3h"}}}))
    assert (manifest.asks, manifest.contexts, manifest.shards) == ((), 0, ())
    assert end_to_end(lake, manifest) == (0, [])


@pytest.mark.parametrize("share", ["50%", "100%"])
def test_a_corpus_of_one_sample(tmp_path, share):
    lake = fill(tmp_path, {"a": questions(1)})
    (manifest,) = plan(lake, recipe({"x": {"take": {"qa": share}}}))
    assert manifest.contexts == (1 if share == "100%" else 0)
    assert end_to_end(lake, manifest) == (manifest.contexts, [])


def end_to_end(lake, manifest):
    """Packs, streams and audits a stage: how many contexts came, and what was found."""
    stage = f"{manifest.model}/{manifest.name}"
    with open_pool(1) as pool:
        pack(lake, [stage], pool, quiet=True)
    contexts = [context for batch in Stream(lake.url, stage) for context in batch.contexts]
    return len(contexts), list(audit(lake, [manifest], deep=True).findings)


# --- what is placed -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Text, chat, images and videos in one stage, three tiles at most, contexts of 2,500 tokens."""
    folder = tmp_path_factory.mktemp("mixed")
    sizes = [(640, 480), (300, 300), (480, 900), (1200, 400), (448, 448), (900, 900)] * 4
    corpora = {
        "talk": (LLAVA, chats(30)),
        "sums": questions(40, words=90),
        "looks": (LLAVA, pictures(folder, sizes)),
        "films": (VIDEO, clips(folder, [1.0, 2.0, 12.0])),
    }
    lake = fill(folder, corpora)
    (manifest,) = plan(lake, recipe({"all": {"take": {"qa": "100%"}}}, tokens=2500, tiles=3))
    return lake, manifest


def test_the_length_of_every_context_is_what_the_model_will_see_and_within_the_budget(mixed):
    lake, manifest = mixed
    for row in rows(lake, manifest, "contexts"):
        assert row["tokens"] == rendered_tokens(lake, manifest, row["context"]), row
        assert row["tokens"] <= 2500


def test_every_selected_sample_is_placed_once(mixed):
    lake, manifest = mixed
    placed = [row["key"] for row in rows(lake, manifest)]
    unplaced = [row["key"] for row in rows(lake, manifest, "unplaced")]
    assert len(placed) + len(unplaced) == len(set(placed) | set(unplaced)) == 30 + 40 + 24 + 3
    assert total(manifest, "selected") == 97


def test_a_video_is_alone_in_its_context(mixed):
    lake, manifest = mixed
    films = {row["context"] for row in rows(lake, manifest) if row["modality"] == "video"}
    assert len(films) == 2
    alone = [row for row in rows(lake, manifest) if row["context"] in films]
    assert [row["corpus"] for row in alone] == ["films", "films"]
    prompts = {row["context"]: row["prompt"] for row in rows(lake, manifest, "contexts")}
    assert {prompts[context] for context in films} == {"video"}


def test_a_video_too_long_for_a_context_is_listed_with_its_length_and_counted_as_selected(mixed):
    lake, manifest = mixed
    (long,) = [row for row in rows(lake, manifest, "unplaced") if row["corpus"] == "films"]
    assert long["tokens"] > 12 * 256
    assert long["reason"] == f"over-long: {long['tokens']} tokens, room for {2500 - manifest.prompts['video']}"
    (films,) = [one for one in manifest.counts if one.corpus == "films"]
    assert (films.selected, films.placed) == (3, 2)


def test_text_and_images_of_different_corpora_share_contexts(mixed):
    lake, manifest = mixed
    together = {}
    for row in rows(lake, manifest):
        together.setdefault(row["context"], set()).add((row["corpus"], row["modality"]))
    assert any({("looks", "image"), ("sums", "text"), ("talk", "text")} <= parts for parts in together.values())


def test_slots_count_from_zero_and_shards_are_those_that_are_needed(mixed):
    lake, manifest = mixed
    contexts, samples = rows(lake, manifest, "contexts"), rows(lake, manifest)
    assert [(row["context"], row["slot"]) for row in samples] == [
        (row["context"], slot) for row in contexts for slot in range(row["samples"])
    ]
    assert [row["first"] for row in contexts] == [
        next(number for number, row in enumerate(samples) if row["context"] == context)
        for context in range(len(contexts))
    ]
    assert {row["shard"] for row in samples} == set(range(len(manifest.shards)))
    assert manifest.bound <= manifest.contexts <= manifest.bound + 1


def test_the_audit_agrees_to_the_last_byte(mixed):
    lake, manifest = mixed
    result = audit(lake, [manifest], deep=True)
    assert result.findings == ()
    assert result.checks > 1000


def test_a_sample_that_is_too_long_is_listed_with_its_reason(tmp_path):
    records = questions(10)
    records[4]["output"] = say(4, 600)
    lake = fill(tmp_path, {"a": records})
    (manifest,) = plan(lake, recipe({"x": {"take": {"qa": "100%"}}}, tokens=500))
    (over,) = rows(lake, manifest, "unplaced")
    assert (over["corpus"], over["questions"]) == ("a", 1)
    assert over["reason"] == f"over-long: {over['tokens']} tokens, room for {500 - 92}"
    assert [(total(manifest, name), total(manifest, f"{name}_questions")) for name in ("selected", "placed")] == [
        (10, 10), (9, 9),
    ]  # fmt: skip
    assert total(manifest, "selected_tokens") - total(manifest, "placed_tokens") == over["tokens"] > 600
    assert not audit(lake, [manifest], deep=True).findings


def test_a_text_that_fits_only_beside_the_smaller_prompt_is_alone_and_not_refused(tmp_path):
    records = questions(3)
    records[1]["output"] = say(1, 450)
    lake = fill(tmp_path, {"a": records, "b": (LLAVA, pictures(tmp_path, [(300, 300)]))})
    (manifest,) = plan(lake, recipe({"x": {"take": {"qa": "100%"}}}, tokens=600))
    (long,) = [row for row in rows(lake, manifest) if row["tokens"] > 400]
    assert manifest.capacity == 600 - 141 < long["tokens"] <= 600 - 92
    context = rows(lake, manifest, "contexts")[long["context"]]
    assert (context["samples"], context["prompt"], context["tokens"]) == (1, "text", long["tokens"] + 92)
    assert not audit(lake, [manifest], deep=True).findings


def test_speech_is_alone_and_counted_in_seconds(tmp_path):
    recordings(tmp_path, [1.0, 1.5, 2.0])
    lake = fill(tmp_path, {"talk": (SPEECH, None)})
    (manifest,) = plan(lake, recipe({"x": {"take": {"asr": "100%"}, "pack": False}}))
    assert [(row["samples"], row["prompt"]) for row in rows(lake, manifest, "contexts")] == [(1, "text")] * 3
    assert sorted(row["audio_tokens"] for row in rows(lake, manifest)) == [12, 18, 24]
    assert total(manifest, "placed_seconds") == 4.5
    for number in range(3):
        assert rows(lake, manifest, "contexts")[number]["tokens"] == rendered_tokens(lake, manifest, number)


# --- what is heard --------------------------------------------------------------------------------------------------

SPOKEN = {
    "small": {"take": {"qa": "20%"}, "spoken": "50%"},
    "large": {"take": {"qa": "100%"}, "spoken": "50%"},
}


def test_half_of_the_questions_are_heard_refusals_made_up_for_and_lengths_are_those_of_the_clips(tmp_path, monkeypatch):
    pool = tone(tmp_path, monkeypatch)
    lake = fill(tmp_path, {"a": questions(40), "c": (LLAVA, chats(20)), "d": questions(5, first=130)})
    page = recipe(SPOKEN)
    voice(lake, page, pool)
    small, large = plan(lake, page, voices="tone")
    assert [(ask.corpus, ask.spoken) for ask in large.asks] == [("a", 20), ("c", 20), ("d", 2)]
    assert {one.corpus: (one.speakable, one.spoken) for one in large.counts} == {
        "a": (40, 20), "c": (39, 20), "d": (5, 0),
    }  # fmt: skip
    assert [one.refused for one in large.counts if one.corpus == "d"] == [5]
    why = "of d 0 questions are heard where 2 were asked: of 5, 0 are not to be spoken, 5 were refused, 0 wait"
    assert f"large: {why}" in planned([small, large]).splitlines()
    heard = {manifest.name: {(row["key"], turn) for row in rows(lake, manifest) for turn in row["spoken"]}
             for manifest in (small, large)}  # fmt: skip
    assert len(heard["large"]) == 40
    assert len(heard["small"]) == 8
    assert len(heard["small"] & heard["large"]) >= 4
    for manifest in (small, large):
        for row in rows(lake, manifest, "contexts"):
            assert row["tokens"] == rendered_tokens(lake, manifest, row["context"])
    assert not audit(lake, [small, large], recipe=page, deep=True).findings


def test_undecided_questions_stop_a_plan_unless_they_are_to_stay_text(tmp_path):
    lake = fill(tmp_path, {"a": questions(20)})
    with pytest.raises(
        Pending, match="corpus 'a': 20 questions that may be spoken have no verdict yet; run tarsia speak"
    ):
        plan(lake, recipe(SPOKEN), only=["large"], voices="tone")
    (manifest,) = plan(lake, recipe(SPOKEN), only=["large"], voices="tone", pending_as_text=True)
    (count,) = manifest.counts
    assert (count.speakable, count.pending, count.spoken) == (20, 20, 0)
    assert {row["audio_tokens"] for row in rows(lake, manifest)} == {0}
    assert not audit(lake, [manifest], deep=True).findings


def test_speech_of_an_edited_question_is_not_used_again(tmp_path, monkeypatch):
    pool, records, page = (
        tone(tmp_path, monkeypatch),
        questions(10),
        recipe({"x": {"take": {"qa": "100%"}, "spoken": "100%"}}),
    )
    lake = fill(tmp_path, {"a": records})
    voice(lake, page, pool)
    records[2]["instruction"] = "What else is there to say?"
    fill(tmp_path, {"a": records})
    with pytest.raises(Pending, match="corpus 'a': 1 questions"):
        plan(lake, page, voices="tone")


# --- the same bytes, and drift --------------------------------------------------------------------------------------


def test_one_worker_and_two_write_the_same_manifests(tmp_path):
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        corpora = {"a": questions(40), "b": questions(30, words=40), "c": (LLAVA, chats(20))}
        lake = fill(folder, corpora, workers=workers, cap=16)
        plan(lake, recipe({"x": {"take": {"qa": "50%"}}, "y": {"take": {"qa": "100%"}}}), workers=workers)
    one, two = (files(tmp_path / str(workers) / "lake/stages") for workers in (1, 2))
    assert len(one) == 8
    assert one == two


def test_two_lakes_that_were_filled_in_different_order_have_the_same_manifests(tmp_path):
    corpora = {"a": questions(40), "b": questions(30, words=40), "c": (LLAVA, chats(20))}
    for name, order in (("one", "abc"), ("two", "cab")):
        (tmp_path / name).mkdir()
        for part in range(1, 4):
            lake = fill(tmp_path / name, {corpus: corpora[corpus] for corpus in order[:part]}, cap=16)
        plan(lake, recipe(HALF))
    one, two = (files(tmp_path / name / "lake/stages") for name in ("one", "two"))
    assert len(one) == 4
    assert one == two


def test_stages_that_share_corpora_are_planned_one_after_the_other_and_told_as_the_recipe_has_them(tmp_path):
    recordings(tmp_path, [1.0, 2.0])
    lake = fill(tmp_path, {"sums": questions(9), "talk": (SPEECH, None), "tales": questions(5, first=20)})
    sums = [{"kind": "qa", "corpus": "sums", "amount": "100%"}]
    takes = {"a": sums, "b": {"asr": "100%"}, "c": {"qa": "50%"}}
    page = recipe({name: {"take": take} for name, take in takes.items()})
    with open_pool(1) as pool:
        every = Corpora(lake.snapshot(), lake, page, pool, voices=None, quiet=True)
        read = {name: {one.state.corpus.name: one for one in corpora} for name, corpora in every.by_stage()}
    assert {name: list(corpora) for name, corpora in read.items()} == {
        "a": ["sums"],
        "c": ["sums", "tales"],
        "b": ["talk"],
    }
    assert list(read) == ["a", "c", "b"]
    assert read["a"]["sums"] is read["c"]["sums"]
    assert [manifest.name for manifest in plan(lake, page)] == ["a", "b", "c"]


def test_planning_again_changes_nothing(tmp_path):
    lake = fill(tmp_path, {"a": questions(40)})
    first = plan(lake, recipe(HALF))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "lake").rglob("*") if path.is_file()}
    assert plan(lake, recipe(HALF)) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "lake").rglob("*") if path.is_file()} == before


def test_planning_again_restores_a_table_that_is_gone(tmp_path):
    lake = fill(tmp_path, {"a": questions(40)})
    (first,) = plan(lake, recipe(HALF))
    (tmp_path / "lake" / first.tables["samples"].path).unlink()
    assert plan(lake, recipe(HALF)) == [first]
    assert len(rows(lake, first)) == 20


def test_a_manifest_that_cannot_be_read_is_an_error_until_it_is_replaced(tmp_path):
    lake = fill(tmp_path, {"a": questions(40)})
    (first,) = plan(lake, recipe(HALF))
    (tmp_path / "lake/stages/small/small/manifest.json").write_text("{")
    with pytest.raises(Corrupt, match=r"stages/small/small/manifest\.json cannot be read"):
        plan(lake, recipe(HALF))
    assert plan(lake, recipe(HALF), replace=True) == [first]


def test_a_dry_run_writes_nothing(tmp_path):
    lake = fill(tmp_path, {"a": questions(40)})
    (manifest,) = plan(lake, recipe(HALF), dry_run=True)
    assert total(manifest, "placed") == 20
    assert not (tmp_path / "lake/stages").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"tokens": 5000}, "context.tokens was 6000, is 5000"),
        ({"tiles": 4}, "context.tiles was 12, is 4"),
        ({"take": {"qa": "60%"}}, "stage.take.qa was 50%, is 60%"),
        ({"take": {"qa": "50%", "caption": "5%"}}, "stage.take.caption was None, is 5%"),
        ({"title": "other"}, "stage.title was stage small, is other"),
    ],
)
def test_another_recipe_where_a_manifest_stands_is_told_field_by_field(tmp_path, change, said):
    lake = fill(tmp_path, {"a": questions(20)})
    plan(lake, recipe(HALF))
    stage = {**HALF["small"], **{name: value for name, value in change.items() if name in ("take", "title")}}
    context = {name: value for name, value in change.items() if name not in stage}
    other = recipe({"small": stage}, **context)
    with pytest.raises(Drift, match=rf"a manifest stands here from another plan: {said}; to plan it anew: --replace"):
        plan(lake, other)
    (manifest,) = plan(lake, other, replace=True)
    assert not audit(lake, [manifest], recipe=other).findings


def test_another_lake_where_a_manifest_stands_is_told_by_its_corpora(tmp_path):
    lake = fill(tmp_path, {"a": questions(20)})
    plan(lake, recipe(HALF))
    fill(tmp_path, {"a": questions(24), "b": questions(3)})
    with pytest.raises(Drift, match=r"samples.a was 20, is 24; samples.b was None, is 3; lake was \w{12}, is \w{12}"):
        plan(lake, recipe(HALF))


def test_a_stage_that_did_not_change_keeps_its_manifest_when_another_did(tmp_path):
    lake = fill(tmp_path, {"a": questions(20)})
    first, _ = plan(lake, recipe({"x": {"take": {"qa": "10%"}}, "y": {"take": {"qa": "50%"}}}))
    again, _ = plan(lake, recipe({"x": {"take": {"qa": "10%"}}, "y": {"take": {"qa": "60%"}}}), replace=True)
    assert again == first


def test_another_tile_rule_and_another_vocabulary_read_no_media(tmp_path):
    shown = pictures(tmp_path, [(640, 480), (448, 448), (1280, 720)])
    lake, every = fill(tmp_path, {"shown": (LLAVA, shown)}), {"all": {"take": {"qa": "100%"}}}
    (before,) = plan(lake, recipe(every, tokens=9000))
    for path in (tmp_path / "lake/corpora").rglob("*.tar"):
        path.unlink()
    (after,) = plan(lake, recipe(every, tokens=9000, tiles=1), replace=True)
    assert total(after, "placed_tokens") < total(before, "placed_tokens")
    (tmp_path / "bytes.tiktoken").write_text("\n".join(f"{b64encode(bytes([n])).decode()} {n}" for n in range(256)))
    (spelt,) = plan(lake, recipe(every, tokens=9000, tokenizer=str(tmp_path / "bytes.tiktoken")), replace=True)
    assert spelt.vocabulary != before.vocabulary
    assert total(spelt, "placed_tokens") > total(before, "placed_tokens")


def test_the_tables_of_a_manifest_answer_plain_sql(tmp_path):
    lake = fill(tmp_path, {"a": questions(40), "b": questions(25, first=100)})
    (manifest,) = plan(lake, recipe({"all": {"take": {"qa": "100%"}}}, tokens=600))
    tables = {name: f"'{lake.url}/{manifest.tables[name].path}'" for name in ("contexts", "samples")}
    found = duckdb.sql(
        f"select corpus, count(*), sum(s.tokens), count(distinct context) filter (c.prompt = 'text') "
        f"from {tables['samples']} s join {tables['contexts']} c using (context) group by corpus order by corpus"
    ).fetchall()
    assert [row[:3] for row in found] == [(one.corpus, one.placed, one.placed_tokens) for one in manifest.counts]
    assert max(row[3] for row in found) <= manifest.contexts


def test_costs_are_counted_once_for_each_setting(tmp_path):
    lake = fill(tmp_path, {"a": questions(20)})
    plan(lake, recipe(HALF))
    plan(lake, recipe(HALF, tokens=900), replace=True)
    assert len(list((tmp_path / "lake/costs").glob("*/a/*.parquet"))) == 1
    plan(lake, recipe(HALF, tiles=4), replace=True)
    assert len(list((tmp_path / "lake/costs").glob("*/a/*.parquet"))) == 2


def test_speech_of_a_record_edited_since_is_passed_over_by_the_audit(tmp_path, monkeypatch):
    records, page = questions(40), recipe(SPOKEN)
    lake = fill(tmp_path, {"a": records})
    voice(lake, page, tone(tmp_path, monkeypatch))
    for record in records[:20]:
        record["output"] += " And more."
    fill(tmp_path, {"a": records})
    manifests = plan(lake, page, voices="tone", pending_as_text=True, replace=True)
    assert audit(lake, manifests, recipe=page).findings == ()

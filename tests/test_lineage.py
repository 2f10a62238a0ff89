"""Lineage: from a record to every context that holds it, and back, whatever the amounts and languages asked for."""

import json

import pytest
from lakes import fill, plan, questions, recipe, rows
from typer.testing import CliRunner

from tarsia.manifests.lineage import Lineage
from tarsia.pipelines.cli import app
from tarsia.schemas.errors import NotThere, UnknownName, UserError
from tests.test_takedown import take

STAGES = {
    "some": {"take": {"qa": "30% from 20%"}},
    "often": {"take": {"qa": "250%"}},
    "english": {"take": [{"kind": "qa", "language": "en", "amount": "40%"}]},
}
PAGE = recipe(STAGES, tokens=300)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A lake of two corpora, one record too long for any context and one refused; three stages."""
    folder = tmp_path_factory.mktemp("lineage")
    records = questions(60)
    records[7]["output"] = "long " * 600
    records.append({"id": "bad", "instruction": "Who?", "output": ""})
    lake = fill(folder, {"sums": records, "more": questions(30, first=200)}, cap=8)
    return lake, plan(lake, PAGE)


def test_every_sample_is_found_in_just_the_contexts_that_hold_it(planned):
    lake, manifests = planned
    placed, everyone = {}, set()
    for manifest in manifests:
        for row in rows(lake, manifest):
            place = (f"small/{manifest.name}", row["copy"], row["context"], row["slot"], row["tokens"])
            placed.setdefault(row["key"], set()).add(place)
        everyone |= {row["key"] for row in rows(lake, manifest, "unplaced")}
    lineage = Lineage(lake)
    for key in everyone | placed.keys():
        places = [one for one in lineage.of_key(key).places if one.unplaced is None]
        found = {(one.stage, one.copy_number, one.context, one.slot, one.tokens) for one in places}
        assert found == placed.get(key, set())
        assert len(places) == len(found)
    assert len(everyone | placed.keys()) == 90


def test_a_record_is_followed_from_its_bytes_in_the_source_to_its_bytes_in_the_lake(planned):
    lake, _ = planned
    record = Lineage(lake).of_id("sums", "r3")
    assert (record.corpus, record.origin.id) == ("sums", "r3")
    assert record == Lineage(lake).of_key(record.key)
    assert len(lake.store.read_range(record.tar, record.offset, record.length)) == record.length


def test_what_was_refused_or_fits_nowhere_is_told_with_its_reason(planned):
    lake, _ = planned
    lineage = Lineage(lake)
    bad = lineage.of_id("sums", "bad")
    assert bad.quarantined
    assert not bad.places
    reasons = {one.stage: one.unplaced for one in lineage.of_id("sums", "r7").places if one.unplaced}
    assert "over-long" in reasons["small/often"]


def test_a_context_is_followed_back_to_its_records_in_order(planned):
    lake, manifests = planned
    lineage = Lineage(lake)
    for manifest in manifests:
        number = manifest.contexts - 1
        records = lineage.of_context(f"small/{manifest.name}", number)
        assert [one.key for one in records] == [row["key"] for row in rows(lake, manifest) if row["context"] == number]
        assert all(one.origin for one in records)


def test_a_lake_that_changed_since_hides_no_context(tmp_path):
    lake = fill(tmp_path, {"sums": questions(40)}, cap=8)
    (manifest,) = plan(lake, recipe({"half": {"take": {"qa": "50%"}}}, tokens=300))
    lake = fill(tmp_path, {"sums": [*questions(40), *questions(40, first=300)]}, cap=8)
    lineage = Lineage(lake)
    for row in rows(lake, manifest):
        assert [one.context for one in lineage.of_key(row["key"]).places] == [row["context"]]


def test_what_was_taken_down_is_found_where_it_was_and_nowhere_once_that_is_repaired(tmp_path):
    page = recipe({"all": {"take": {"qa": "100%"}}}, tokens=300)
    lake = fill(tmp_path, {"sums": questions(40)}, cap=8)
    before = {row["key"]: row["context"] for row in rows(lake, plan(lake, page)[0])}
    take(lake, ("sums", "r5"), ("sums", "r23"))
    for repaired in (False, True):
        if repaired:
            now = {row["key"]: row["context"] for row in rows(lake, plan(lake, page, repair=True)[0])}
        lineage, standing = Lineage(lake), now if repaired else before
        for key in before:
            (place,) = lineage.of_key(key).places
            assert (place.context, place.unplaced) == (standing.get(key), None if key in standing else "taken-down")


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda lineage: lineage.of_key("xyz"), UserError, "32 hex digits"),
        (lambda lineage: lineage.of_key("0" * 32), NotThere, "no record has the key"),
        (lambda lineage: lineage.of_id("sums", "r99"), NotThere, "no record with the id 'r99'"),
        (lambda lineage: lineage.of_id("sum", "r1"), UnknownName, "sums"),
        (lambda lineage: lineage.of_context("small/some", 10_000), NotThere, "contexts, none is 10000"),
        (lambda lineage: lineage.of_context("small/none", 0), NotThere, "not planned"),
    ],
)
def test_what_is_not_there_is_said(planned, ask, error, said):
    with pytest.raises(error, match=said):
        ask(Lineage(planned[0]))


def test_the_command_line_tells_both_ways(planned):
    lake, _ = planned
    told = CliRunner().invoke(app, ["inspect", lake.url, "--id", "sums", "r3", "--json"])
    assert json.loads(told.stdout)[0]["origin"]["id"] == "r3"
    back = CliRunner().invoke(app, ["inspect", lake.url, "--context", "small/often", "0"])
    assert back.exit_code == 0
    assert "small/often: context 0, slot 0" in back.stdout
    assert isinstance(CliRunner().invoke(app, ["inspect", lake.url]).exception, UserError)


def test_records_whose_id_is_not_theirs_alone_are_told_by_their_keys(tmp_path):
    records = [*questions(3), {**questions(1)[0], "output": "Another answer."}, {**questions(2)[1]}]
    lineage = Lineage(fill(tmp_path, {"sums": records}))
    for own in ("r0", "r1"):  # two answers under one id; one record twice
        with pytest.raises(UserError, match=f"2 records have the id '{own}'; ask for --key") as told:
            lineage.of_id("sums", own)
        keys = str(told.value).partition("of: ")[2].split(", ")
        assert {lineage.of_key(key).origin.id.partition("#")[0] for key in keys} == {own}
    assert lineage.of_id("sums", "r2").origin.id == "r2"

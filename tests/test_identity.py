"""Who a sample is: its own id, else its id and content, else its content and how often it came. Never its place."""

import json
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tarsia.builders.documents import read_catalog
from tarsia.builders.lake import Lake
from tarsia.builders.tables import get_tables
from tarsia.pipelines.ingest import ingest
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.identity import digest, key_of
from tarsia.schemas.shard import INDEX, TEXT

MOON = {"id": "7", "instruction": "What is up?", "output": "The moon."}
SUN = {"id": "7", "instruction": "What is up?", "output": "The sun."}
STAR = {"id": "8", "instruction": "What is up?", "output": "A star."}
NOBODY = {"instruction": "Who is it?", "output": "Nobody."}


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Ingests files of records (lists become JSON Lines): what each answer's sample is called, and its key."""
    numbers = count()

    def named(files, report=False):
        folder = tmp_path_factory.mktemp(f"identity{next(numbers)}")
        for name, records in files.items():
            (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
        (folder / "catalog.yaml").write_text(
            "corpora: {talk: {format: alpaca, kind: qa, language: en, licence: CC0, root: ., files: '*.jsonl'}}"
        )
        lake = Lake(str(folder / "lake"))
        with open_pool(1) as pool:
            reports = ingest(read_catalog(folder / "catalog.yaml"), lake, pool, quiet=True)
        if report:
            return reports[0]
        state = lake.snapshot().corpus("talk")
        rows = get_tables(lake.store, (shard.index for shard in state.shards), INDEX, ("key", "id")).to_pylist()
        said = get_tables(lake.store, (shard.text for shard in state.shards), TEXT, TEXT.names).to_pylist()
        answers = {row["key"]: row["conversations"][1]["value"] for row in said}
        return sorted((answers[row["key"]], row["id"], row["key"]) for row in rows)

    return named


def record(raw):
    return digest(json.dumps(raw, sort_keys=True, separators=(",", ":")).encode())[:32]


def test_a_record_is_called_by_its_own_id(named):
    assert named({"a.jsonl": [STAR]}) == [("A star.", "8", key_of("talk", "8"))]


def test_ids_may_be_numbers(named):
    assert named({"a.jsonl": [{**STAR, "id": 8}]}) == [("A star.", "8", key_of("talk", "8"))]


def test_colliding_ids_become_id_and_record(named):
    assert named({"a.jsonl": [MOON, SUN, STAR]}) == [
        ("A star.", "8", key_of("talk", "8")),
        ("The moon.", f"7#{record(MOON)[:12]}", key_of("talk", f"7\0{record(MOON)}")),
        ("The sun.", f"7#{record(SUN)[:12]}", key_of("talk", f"7\0{record(SUN)}")),
    ]


def test_a_record_without_id_is_called_by_its_content(named):
    content = record(NOBODY)
    assert named({"a.jsonl": [NOBODY]}) == [("Nobody.", f"#{content[:12]}", key_of("talk", f"\0{content}"))]


def test_an_empty_id_is_none(named):
    nobody = {**NOBODY, "id": ""}
    assert named({"a.jsonl": [nobody]})[0][1] == f"#{record(nobody)[:12]}"


def test_equal_records_are_told_apart_by_their_occurrence(named):
    content, moon = record(NOBODY), record(MOON)
    assert named({"a.jsonl": [NOBODY, NOBODY, NOBODY, MOON, MOON]}) == [
        ("Nobody.", f"#{content[:12]}", key_of("talk", f"\0{content}")),
        ("Nobody.", f"#{content[:12]}#1", key_of("talk", f"\0{content}\0001")),
        ("Nobody.", f"#{content[:12]}#2", key_of("talk", f"\0{content}\0002")),
        ("The moon.", f"7#{moon[:12]}", key_of("talk", f"7\0{moon}")),
        ("The moon.", f"7#{moon[:12]}#1", key_of("talk", f"7\0{moon}\0001")),
    ]


def test_key_order_and_spaces_of_the_json_do_not_matter(named, tmp_path):
    swapped = dict(reversed(NOBODY.items()))
    assert named({"a.jsonl": [swapped]}) == named({"a.jsonl": [NOBODY]})


def test_no_id_can_pass_for_another_records_identity(named):
    forged = {**STAR, "id": f"7\0{record(MOON)}"}
    assert len({key for _, _, key in named({"a.jsonl": [MOON, SUN, forged]})}) == 3


def test_how_identities_came_about_is_reported(named):
    report = named({"a.jsonl": [MOON, SUN, STAR], "b.jsonl": [NOBODY, NOBODY]}, report=True)
    assert report.identities == {"own id": 1, "id and record": 2, "record": 2, "repeated": 1}


RECORDS = [
    {"id": own, "instruction": "Say it.", "output": text} for own in (None, "1", "2") for text in ("a", "b", "broken")
]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(RECORDS), st.sampled_from(["a.jsonl", "b.jsonl", "z.jsonl"])), max_size=12))
def test_names_and_keys_do_not_depend_on_order_or_files(named, placed):
    files = {}
    for record_, name in placed:
        files.setdefault(name, []).append(record_)
    together = [record_ for record_, _ in placed]
    if placed:
        assert named(files) == named({"all.jsonl": together[::-1]})

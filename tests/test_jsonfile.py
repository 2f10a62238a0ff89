import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tarsia.builders.corpora import Fault
from tarsia.builders.reading import jsonfile
from tarsia.builders.reading.encoding import encoding_of
from tarsia.builders.reading.jsonfile import Member, elements, members, records, value_of
from tarsia.builders.storage import open_store

ROWS = [{"id": number, "text": f"row {number}", "said": [{"from": "human", "value": "]},{"}]} for number in range(9)]


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")

    def read(data, name="some.json"):
        raw = data if isinstance(data, bytes) else data.encode()
        (folder / name).write_bytes(raw)
        store = open_store(str(folder))
        found = list(records(store, name))
        for part in found:
            assert encoding_of(store, name) != "utf-8" or raw[part.begin : part.end].startswith(part.raw)
        return found

    return read


def values(found):
    return [part.code if isinstance(part, Fault) else part.value for part in found]


def spans(found):
    return [(part.begin, part.end) for part in found]


def test_an_array_gives_its_elements_and_their_spans(read):
    found = read('[{"a": 1}, {"a": [2, {"b": "]"}]},\n {"a": 3}]\n')
    assert values(found) == [{"a": 1}, {"a": [2, {"b": "]"}]}, {"a": 3}]
    assert spans(found) == [(1, 9), (11, 33), (36, 44)]


def test_elements_need_not_be_objects(read):
    assert values(read('[1, "two, ]", null, [3, [4]], -5.5e1 , true, {}]')) == [
        1,
        "two, ]",
        None,
        [3, [4]],
        -55.0,
        True,
        {},
    ]


def test_json_lines_give_their_lines_and_their_spans(read):
    found = read('{"a": 1}\n\n  {"a": 2}\r\n{"a": 3}')
    assert values(found) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert spans(found) == [(0, 8), (12, 20), (22, 30)]


def test_the_name_of_the_file_does_not_matter(read):
    assert values(read('[{"a": 1}]', "array.jsonl")) == values(read('{"a": 1}\n', "lines.json")) == [{"a": 1}]


@pytest.mark.parametrize("data", ['[{"a": 1}]', '{"a": 1}\n'])
def test_a_byte_order_mark_is_no_part_of_the_first_record(read, data):
    plain, marked = read(data), read(b"\xef\xbb\xbf" + data.encode())
    assert values(marked) == values(plain) == [{"a": 1}]
    assert spans(marked) == [(begin + 3, end + 3) for begin, end in spans(plain)]


@pytest.mark.parametrize("data", ["", " \n ", "[]", "[ ]\n"])
def test_nothing_gives_nothing(read, data):
    assert read(data) == []


def test_a_broken_line_is_a_fault_and_the_next_line_is_read(read):
    found = read('{"a": 1}\n{"a": 2\n{"a": NaN}\n{"a": 4}\n')
    assert values(found) == [{"a": 1}, "json-broken", "json-broken", {"a": 4}]
    assert spans(found)[1:3] == [(9, 16), (17, 27)]


def test_the_first_line_may_be_the_broken_one(read):
    assert values(read('{"a": "cut\n{"a": 2}\n')) == ["json-broken", {"a": 2}]


def test_a_last_line_cut_off_is_one_truncated_record(read):
    found = read('{"a": 1}\n{"a": [2, "x')
    assert values(found) == [{"a": 1}, "json-truncated"]
    assert spans(found)[1] == (9, 21)


def test_a_last_line_that_is_whole_but_wrong_is_broken_and_not_truncated(read):
    assert values(read('{"a": 1}\n{"a": NaN}')) == [{"a": 1}, "json-broken"]


def test_a_broken_element_is_a_fault_and_the_next_element_is_read(read):
    found = read('[{"a": 1}, {"a": NaN}, {\'a\': 3}, {"a": 4,}, nonsense, {"a": 5}]')
    assert values(found) == [{"a": 1}, *["json-broken"] * 4, {"a": 5}]
    assert spans(found)[1] == (11, 21)


def test_a_truncated_array_is_one_fault_with_the_span_of_its_tail(read):
    found = read('[{"a": 1}, {"a": [{"a": 2}, {"a": 3}, {"b')
    assert values(found) == [{"a": 1}, "json-truncated"]
    assert spans(found)[1] == (11, 41)


def test_an_array_cut_between_elements_is_truncated_as_well(read):
    found = read('[{"a": 1},\n')
    assert values(found) == [{"a": 1}, "json-truncated"]
    assert spans(found)[1] == (11, 11)


def test_text_after_an_array_is_one_fault(read):
    found = read('[{"a": 1}]\n[{"a": 2}]')
    assert values(found) == [{"a": 1}, "json-broken"]
    assert spans(found)[1] == (11, 21)


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}])
@pytest.mark.parametrize("broken", [0, 4, 8])
@pytest.mark.parametrize("lost", ['"text"', '"row', '"human"', "[", ":"])
def test_a_lost_quote_or_bracket_costs_one_record(read, layout, broken, lost):
    parts = [json.dumps(row, **layout) for row in ROWS]
    parts[broken] = parts[broken].replace(lost, lost[1:], 1)
    found = read("[" + ", ".join(parts) + "]")
    kept = [row for number, row in enumerate(ROWS) if number != broken]
    assert [part.value for part in found if not isinstance(part, Fault)] == kept
    assert len(found) - len(kept) == 1 or broken == 8


def test_bytes_in_another_encoding_are_told_from_broken_json(read):
    row = '{"a": "déjà vu"}'
    assert values(read(b'{"a": 1}\n' + row.encode("latin-1") + b'\n{"a": 3}\n')) == [
        {"a": 1},
        "text-encoding",
        {"a": 3},
    ]
    assert values(read(b'[{"a": 1}, ' + row.encode("latin-1") + b', {"a": 3}]')) == [
        {"a": 1},
        "text-encoding",
        {"a": 3},
    ]


def test_half_a_surrogate_pair_is_broken(read):
    assert values(read('[{"a": "\\ud83d"}, {"a": "\\ud83d\\ude00"}]')) == ["json-broken", {"a": "😀"}]


def test_an_object_over_several_lines_is_one_fault(read):
    data = json.dumps({"images": [{"id": 1}], "annotations": list(range(200))}, indent=1)
    found = read(data)
    assert values(found) == ["json-broken"]
    assert spans(found) == [(0, len(data))]


def test_a_record_without_end_is_given_up_after_the_largest_size(read, monkeypatch):
    monkeypatch.setattr(jsonfile, "LARGEST", 1000)
    monkeypatch.setattr(jsonfile, "CHUNK", 100)
    data = '[{"a": 1}, {"a": [' + "1, " * 2000 + "1]]"
    found = read(data)
    assert [(getattr(part, "code", None), part.begin, part.end) for part in found] == [
        (None, 1, 9),
        ("json-broken", 11, len(data)),
    ]
    assert values(read('{"a": 1}\n{"a": "' + "x" * 3000 + '"}\n{"a": 3}\n')) == [{"a": 1}, "json-broken", {"a": 3}]


def test_a_fault_keeps_only_the_beginning_of_its_bytes(read):
    data = '[{"a": 1}, {"a": "' + "x" * 200_000
    fault = read(data)[1]
    assert (fault.begin, fault.end, len(fault.raw)) == (11, len(data), jsonfile.KEPT)


def test_files_larger_than_the_window_are_read_whole(read):
    rows = [{"id": number, "text": 'abc \\ " 你好\n' * (number % 97)} for number in range(6000)]
    for layout in ({}, {"indent": 1}, {"ensure_ascii": False}):
        data = json.dumps(rows, **layout)
        assert len(data) > 3 * jsonfile.CHUNK
        assert values(read(data)) == rows


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(JSON), st.sampled_from([None, 1]), st.booleans(), st.integers(1, 40))
def test_every_array_is_read_as_json_reads_it(read, rows, indent, escaped, chunk):
    data = json.dumps(rows, indent=indent, ensure_ascii=escaped).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonfile, "CHUNK", chunk)
        found = read(data)
    assert values(found) == rows
    assert [json.loads(part.raw) for part in found] == rows


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=5), JSON, min_size=1), min_size=1), st.data())
def test_a_cut_array_keeps_what_was_before_the_cut(read, rows, data):
    whole = json.dumps(rows).encode()
    cut = data.draw(st.integers(1, len(whole) - 1))
    found = read(whole[:cut])
    assert [part.code for part in found if isinstance(part, Fault)] == ["json-truncated"]
    before = [part for part in read(whole) if part.end <= cut]
    assert found[:-1] == before
    assert found[-1].end == cut


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text('[]{}",:\\ \na1é').map(str.encode), st.integers(1, 40))
def test_no_bytes_break_the_reading(read, data, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonfile, "CHUNK", chunk)
        found = read(data)
    for one, other in pairwise(found):
        assert one.begin <= one.end <= other.begin
    list(members(data))


def test_the_members_of_an_object_come_with_the_spans_of_their_values():
    data = b'\xef\xbb\xbf{"a": [1, 2], "b\\u0061": {"c": "}"}, "a": 3}\n'
    assert list(members(data)) == [Member("a", 9, 15, True), Member("ba", 28, 38, True), Member("a", 45, 46, True)]
    assert [value_of(data, member).value for member in members(data)] == [[1, 2], {"c": "}"}, 3]


def test_the_elements_of_a_member_are_placed_in_the_file():
    data = b'{"x": 1, "rows": [{"a": 1}, {"a": 2}], "y": 2}'
    rows = next(member for member in members(data) if member.key == "rows")
    assert [(found.value, found.begin, found.end) for found in elements(data, rows.begin)] == [
        ({"a": 1}, 18, 26),
        ({"a": 2}, 28, 36),
    ]


def test_a_truncated_object_says_which_member_is_not_whole():
    data = b'{"a": [1], "b": [2, '
    last = list(members(data))[-1]
    assert last == Member("b", 16, 20, False)
    assert value_of(data, last).code == "json-truncated"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"a": 1', "json-truncated"),
        (b'{"a": 1, b: 2}', "json-broken"),
        (b"[1]", "json-broken"),
        (b"{} x", "json-broken"),
    ],
)
def test_what_is_no_whole_object_is_a_fault(data, code):
    *_, last = [value_of(data, part) if isinstance(part, Member) else part for part in members(data)]
    assert last.code == code

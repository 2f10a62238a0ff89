"""Order is an API: golden values of keys, draws, digests and leaves. A change here needs an ORDER entry."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tarsia.schemas.identity import (
    canonical,
    checksum,
    digest,
    digest_of,
    draw_of,
    key_of,
    redraw,
    redraws,
    start,
)
from tarsia.schemas.shard import Leaf, leaves

WORDS = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("corpus", "identity", "key"),
    [
        ("coco_en", "88366", "11286e87bf7c6297b5baf64adc3c4bad"),
        ("coco_en", "88367", "8f3a57709aeec0e7f0305efc2c84ed98"),
        ("sharegpt4v", "88366", "60faa35d320a416f612ef2269415db71"),
        ("zh", "苹果", "97a67ba4ff5a37556960ce254e84551c"),
        ("a", "x\0y", "d813b79757e0945f21e1ac3f9a5371e9"),
        ("a", "", "ea853fa8d2e4c2339586231a1d5d63be"),
    ],
)
def test_a_key_is_a_hash_of_corpus_and_identity(corpus, identity, key):
    assert key_of(corpus, identity) == key


def test_a_draw_is_the_first_half_of_the_key():
    assert draw_of("11286e87bf7c6297b5baf64adc3c4bad") == 0x11286E87BF7C6297
    assert draw_of("ffffffffffffffff0000000000000000") == 2**64 - 1


@pytest.mark.parametrize(
    ("seed", "place"),
    [(0, 5924081817199772064), (1, 5822775844918917040), (2, 13801430038365850549), (2**63, 3264904037337879496)],
)
def test_a_seed_is_a_place_on_the_circle(seed, place):
    assert start(seed) == place


@pytest.mark.parametrize(
    ("draw", "purpose", "ordinal", "second"),
    [
        (0, "spoken", 0, 5766006101840699349),
        (0, "spoken", 1, 18357415857852699760),
        (1, "spoken", 0, 15876943134270073015),
        (0, "voice", 0, 1233969216874375850),
        (2**64 - 1, "template", 0, 16845942161627883903),
        (2**64 - 1, "spoken", 2**32, 4555016867835099786),
    ],
)
def test_a_second_draw_depends_on_the_first_on_the_purpose_and_on_the_ordinal(draw, purpose, ordinal, second):
    assert redraw(draw, purpose, ordinal) == second


@given(st.lists(WORDS), st.text(), WORDS)
@example([0, 1, 2**63, 2**64 - 1], "spoken", 2**64 - 1)
def test_second_draws_of_many_are_those_of_each(draws, purpose, ordinal):
    many = redraws(np.array(draws, dtype=np.uint64), purpose, ordinal)
    assert many.tolist() == [redraw(draw, purpose, ordinal) for draw in draws]


@given(st.lists(st.tuples(WORDS, WORDS)))
def test_every_draw_may_have_an_ordinal_of_its_own(pairs):
    draws, ordinals = np.array(pairs, dtype=np.uint64).reshape(-1, 2).T
    many = redraws(draws, "voice", ordinals)
    assert many.tolist() == [redraw(draw, "voice", ordinal) for draw, ordinal in pairs]


def test_second_draws_are_even():
    draws = np.array([draw_of(key_of("c", str(number))) for number in range(20_000)], dtype=np.uint64)
    first, second = (draws < 2**63), (redraws(draws, "spoken") < 2**63)
    both = int((first & second).sum())
    assert abs(both - 5_000) < 250  # a quarter, within four standard deviations


def test_canonical_json_is_sorted_tight_and_utf8():
    assert canonical({"b": [1, 2.5, None, True], "a": "图 \n"}) == '{"a":"图 \\n","b":[1,2.5,null,true]}'.encode()
    assert canonical({"b": 1e-7, "é": -0.0, "a": 2**63}) == '{"a":9223372036854775808,"b":1e-7,"é":-0.0}'.encode()


def test_digests_are_blake3():
    assert digest(b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert digest(b"abc") == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    assert digest_of({"b": 1, "a": 2}) == "aec0c27dfce8daa9a0e36db913d1688ec539ca7f764997c4de8b9f3101f6418b"
    assert digest_of({"a": 2, "b": 1}) == digest_of({"b": 1, "a": 2})


def test_checksums_are_xxh3():
    assert checksum(b"") == 0x2D06800538D394C2
    assert checksum(b"abc") == 8696274497037089104


def test_the_leaves_of_ten_captions():
    draws = np.sort(np.array([draw_of(key_of("coco_en", str(number))) for number in range(10)], dtype=np.uint64))
    names = {cap: [leaf.name for leaf in leaves(draws, cap)] for cap in (1, 3, 9, 10)}
    assert names == {
        1: ["b0100", "b0101", "b011", "b1000", "b10010", "b10011", "b1010", "b1011", "b110", "b111"],
        3: ["b0", "b100", "b101", "b11"],
        9: ["b0", "b1"],
        10: ["b"],
    }


def test_no_draws_have_no_leaves():
    assert list(leaves(np.empty(0, np.uint64), 4)) == []


def test_a_border_belongs_to_the_upper_leaf():
    draws = np.array([0, 2**63 - 1, 2**63, 2**64 - 1], dtype=np.uint64)
    assert list(leaves(draws, 2)) == [Leaf("b0", 0, 2), Leaf("b1", 2, 4)]


def test_equal_draws_stay_together_in_the_deepest_leaf_however_many():
    draws = np.array([5, 5, 5, 2**64 - 1], dtype=np.uint64)
    deepest = "b" + f"{5:064b}"
    assert list(leaves(draws, 2)) == [Leaf(deepest, 0, 3), Leaf("b1", 3, 4)]


@given(st.lists(WORDS | st.integers(0, 7), max_size=200), st.integers(1, 20))
@example([0] * 30, 1)
@example([2**64 - 1] * 30, 1)
def test_leaves_part_the_draws_in_order_and_hold_no_more_than_the_cap(numbers, cap):
    draws = np.sort(np.array(numbers, dtype=np.uint64))
    found = list(leaves(draws, cap))
    ends = [leaf.end for leaf in found]
    assert [leaf.begin for leaf in found] == [0, *ends[:-1]][: len(found)]
    assert ends[-1:] == [len(draws)][: len(found)]
    for name, begin, end in found:
        bits = {f"{int(draw):064b}"[: len(name) - 1] for draw in draws[begin:end]}
        assert bits == {name[1:]}
        assert end - begin <= cap or len(name) == 65


@given(st.lists(WORDS, max_size=100, unique=True), st.integers(1, 20), st.data())
def test_one_more_record_touches_one_leaf_or_splits_it(numbers, cap, data):
    more = data.draw(WORDS)
    before = {leaf.name for leaf in leaves(np.sort(np.array(numbers, dtype=np.uint64)), cap)}
    after = {leaf.name for leaf in leaves(np.sort(np.array([*numbers, more], dtype=np.uint64)), cap)}
    gone = before - after
    assert len(gone) <= 1
    home = next((name for name in gone), None)
    assert all(home is None or name.startswith(home) for name in after - before)
    assert len(after - before) <= (1 if home is None else 65)

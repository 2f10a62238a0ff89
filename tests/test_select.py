"""Which samples a stage takes: exact, nested, stable; what is heard: the first accepted, as many as asked."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarsia.manifests.select import arc, copies, divide, heard, positions, reach, rounds, walk
from tarsia.schemas.identity import CIRCLE, redraw, start
from tarsia.schemas.recipe import Amount

SHARES = st.decimals(min_value=0, max_value=100, places=3, allow_nan=False).map(lambda share: f"{share}%")
SEEDS = st.integers(0, 2**40)


def circle(count: int, purpose: str = "") -> np.ndarray:
    """The sorted draws of a made-up corpus."""
    return np.sort(np.array([redraw(number, f"test {purpose}") for number in range(count)], dtype=np.uint64))


def amount(text: str) -> Amount:
    return Amount.model_validate(text)


def bools(text: str) -> np.ndarray:
    return np.array([sign == "x" for sign in text])


@pytest.mark.parametrize(
    ("share", "samples"),
    [("4%", 184), ("20%", 920), ("100%", 4599), ("0%", 0), ("0.01%", 0), ("0.011%", 1), ("33.3%", 1531)],
)
def test_a_share_of_4599_samples_is_rounded_to_a_whole_number(share, samples):
    assert amount(share).of(4599) == samples


def test_halves_are_rounded_to_even():
    assert [amount("50%").of(count) for count in (1, 3, 5, 7)] == [0, 2, 2, 4]
    assert [amount("12.5%").of(count) for count in (4, 12, 20)] == [0, 2, 2]


@given(SHARES, st.integers(0, 300), SEEDS)
def test_every_share_selects_exactly_round_share_times_n(share, count, seed):
    asked = amount(share).of(count)
    assert asked == round(Fraction(share.removesuffix("%")) * count / 100)
    assert len(set(arc(circle(count), seed, asked).tolist())) == asked


@given(SEEDS)
def test_four_percent_is_inside_twenty_is_inside_all_for_every_seed(seed):
    draws = circle(731)
    small, middle, large = (set(arc(draws, seed, amount(share).of(731)).tolist()) for share in ("4%", "20%", "100%"))
    assert (len(small), len(middle), len(large)) == (29, 146, 731)
    assert small < middle < large


@given(SHARES, SHARES, SEEDS, st.integers(1, 400))
def test_the_smaller_of_any_two_shares_is_the_beginning_of_the_larger(one, other, seed, count):
    draws = circle(count)
    shorter, longer = sorted((arc(draws, seed, amount(share).of(count)) for share in (one, other)), key=len)
    assert longer[: len(shorter)].tolist() == shorter.tolist()


def test_an_arc_begins_at_the_seeds_point_and_wraps():
    before, after = start(1) - 5, start(1) + 5
    draws = np.array(sorted([3, before, after, CIRCLE - 3]), dtype=np.uint64)
    first = draws.tolist().index(after)
    assert arc(draws, 1, 4).tolist() == [(first + step) % 4 for step in range(4)]
    assert arc(draws, 1, 4)[-1] == draws.tolist().index(before)


def test_an_arc_begins_with_the_sample_on_the_starting_point_itself():
    draws = np.array(sorted([0, start(7), CIRCLE - 1]), dtype=np.uint64)
    assert draws[arc(draws, 7, 1)].tolist() == [start(7)]


def test_another_seed_takes_another_arc_of_the_same_circle():
    draws = circle(1000)
    one, two = (set(arc(draws, seed, 100).tolist()) for seed in (1, 2))
    assert one != two
    assert len({tuple(arc(draws, seed, 100)) for seed in range(40)}) > 35


def test_a_sample_that_comes_or_goes_moves_no_other():
    draws = circle(1000)
    without = np.delete(draws, 500)
    whole, less = (set(set_[arc(set_, 3, len(set_) // 5)].tolist()) for set_ in (draws, without))
    assert len(whole ^ less) <= 2


def test_no_sample_is_no_arc():
    assert arc(np.empty(0, np.uint64), 1, 0).tolist() == []
    assert reach(np.empty(0, np.uint64), 1, np.empty(0), 3.0).tolist() == []


def test_hours_take_the_fewest_samples_that_reach_them():
    draws, seconds = circle(10), np.arange(1.0, 11.0)
    order = arc(draws, 5, 10)
    for asked in (0.0, 0.5, 7.0, 54.9, 55.0):
        rows = reach(draws, 5, seconds, asked)
        assert rows.tolist() == order[: len(rows)].tolist()
        assert seconds[rows].sum() >= asked
        assert not len(rows) or seconds[rows[:-1]].sum() < asked


def test_more_hours_than_there_are_take_everything():
    assert len(reach(circle(10), 5, np.ones(10), 3600.0)) == 10


@given(SEEDS, st.lists(st.integers(0, 9), min_size=1, max_size=200), st.integers(0, 500), st.integers(0, 500))
def test_fewer_questions_are_the_beginning_of_more(seed, sizes, one, other):
    draws = circle(len(sizes))
    less, more = (reach(draws, seed, np.array(sizes), asked).tolist() for asked in sorted((one, other)))
    assert more[: len(less)] == less


# --- numbers, divided -----------------------------------------------------------------------------------------------

SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=8)


@given(SIZES, st.integers(0, 400))
def test_a_number_is_divided_as_one_after_the_other_would_be_given(sizes, asked):
    given_ = [0] * len(sizes)
    for _ in range(asked if any(sizes) else 0):
        at = max(range(len(sizes)), key=lambda at: (Fraction(sizes[at], 2 * given_[at] + 1), -at))
        given_[at] += 1
    assert divide(asked, sizes) == given_


@given(SIZES, st.integers(0, 400))
def test_divided_numbers_add_up_and_nobody_gets_more_than_it_has_before_all_have_all(sizes, asked):
    parts = divide(asked, sizes)
    assert sum(parts) == (asked if sum(sizes) else 0)
    if asked <= sum(sizes):
        assert all(part <= size for part, size in zip(parts, sizes, strict=True))
    else:
        assert all(part >= size for part, size in zip(parts, sizes, strict=True))


@given(SIZES, st.integers(0, 400), st.integers(0, 50))
def test_nobody_gets_less_when_more_is_divided(sizes, asked, more):
    less, most = divide(asked, sizes), divide(asked + more, sizes)
    assert all(one <= other for one, other in zip(less, most, strict=True))


def test_where_largest_remainders_would_take_one_away_none_is():
    assert (divide(10, [6, 6, 2]), divide(11, [6, 6, 2])) == ([5, 4, 1], [5, 5, 1])


def test_millions_are_divided_at_once():
    assert divide(2_000_000_000, [3, 1, 0, 4]) == [750_000_000, 250_000_000, 0, 1_000_000_000]


# --- ranges and copies ----------------------------------------------------------------------------------------------


def chosen(share, draws, seed):
    asked = amount(share)
    return arc(draws, seed, asked.of(len(draws)), asked.skipped(len(draws))).tolist()


@given(st.lists(st.decimals(0, 100, places=2), max_size=5), SEEDS, st.integers(0, 300))
def test_ranges_that_touch_part_the_whole(borders, seed, count):
    draws, ends = circle(count), [0, *sorted(borders), 100]
    parts = [chosen(f"{end - begin}% from {begin}%", draws, seed) for begin, end in pairwise(ends)]
    assert [row for part in parts for row in part] == chosen("100%", draws, seed)


def test_thirty_percent_and_the_seventy_after_it_are_all():
    draws = circle(731)
    first, rest = chosen("30%", draws, 4), chosen("70% from 30%", draws, 4)
    assert (len(first), len(rest)) == (219, 512)
    assert set(first).isdisjoint(rest)
    assert sorted(first + rest) == list(range(731))


@given(st.decimals(0, 500, places=2), SEEDS, st.integers(1, 80))
def test_more_than_all_is_whole_copies_and_the_first_of_the_arc_once_more(share, seed, count):
    draws = circle(count)
    rows = arc(draws, seed, amount(f"{share}%").of(count))
    total = round(Fraction(share) * count / 100)
    assert len(rows) == total
    once = arc(draws, seed, count).tolist()
    assert rows.tolist() == (once * (total // count + 1))[:total]
    assert copies(rows).tolist() == [place // count for place in range(total)]


def test_two_hundred_and_fifty_percent_are_two_copies_and_a_half():
    rows = arc(circle(10), 3, amount("250%").of(10))
    assert sorted(np.bincount(rows).tolist()) == [2] * 5 + [3] * 5
    assert np.bincount(copies(rows)).tolist() == [10, 10, 5]


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 300)), min_size=1, max_size=4))
def test_copies_of_a_sample_are_packed_in_different_parts_of_the_stage(sizes):
    arcs = [arc(circle(there), 5, taken) for there, taken in sizes]
    parts, owners = rounds(arcs), np.repeat(np.arange(len(arcs)), [len(rows) for rows in arcs])
    places = list(zip(owners.tolist(), np.concatenate(arcs).tolist(), parts.tolist(), strict=True))
    assert len(set(places)) == len(places)
    for rows, of in zip(arcs, np.split(parts, np.cumsum([len(rows) for rows in arcs])[:-1]), strict=True):
        assert of.tolist() == sorted(of.tolist())
        assert len(rows) == len(of)


def test_a_stage_without_copies_is_packed_in_one_part():
    assert not rounds([arc(circle(9), 1, 9), arc(circle(5), 1, 0)]).any()
    assert rounds([]).tolist() == []


def test_every_copy_of_a_question_is_drawn_for_itself():
    draws = circle(200)
    order = walk(arc(draws, 1, 400), draws, np.ones(200, np.int32))
    first, second = ([order.rows[at] for at in range(400) if (order.places[at] >= 200) == later] for later in (0, 1))
    assert sorted(first) == sorted(second) == list(range(200))
    assert first != second
    assert first == walk(arc(draws, 1, 200), draws, np.ones(200, np.int32)).rows.tolist()


# --- where in the stage ---------------------------------------------------------------------------------------------


def test_positions_are_the_middles_of_equal_steps():
    assert positions(4).tolist() == [0.125, 0.375, 0.625, 0.875]
    assert positions(1).tolist() == [0.5]
    assert positions(0).tolist() == []


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 20))
def test_every_window_of_positions_holds_each_corpus_in_proportion(one, other, windows):
    for count in (one, other):
        inside = np.bincount((positions(count) * windows).astype(int), minlength=windows)
        assert inside.max() - count / windows < 1
        assert count / windows - inside.min() < 1


# --- what is heard --------------------------------------------------------------------------------------------------


def test_a_walk_asks_every_question_of_the_selected_samples_once():
    draws, questions = circle(20), np.arange(20, dtype=np.int32) % 3
    rows = arc(draws, 4, 8)
    order = walk(rows, draws, questions)
    asked = sorted(zip(order.rows.tolist(), order.turns.tolist(), strict=True))
    assert asked == sorted((row, turn) for row in rows.tolist() for turn in range(questions[row]))


def test_a_walk_goes_in_the_order_of_the_spoken_draw():
    draws, questions = circle(20), np.full(20, 2, dtype=np.int32)
    order = walk(arc(draws, 4, 8), draws, questions)
    coins = [redraw(int(draws[row]), "spoken", int(turn)) for row, turn in zip(*order[:2], strict=True)]
    assert coins == sorted(coins)


@given(SEEDS, st.integers(0, 60), st.integers(0, 60))
def test_the_walk_of_a_smaller_stage_is_the_walk_of_a_larger_one_with_gaps(seed, one, other):
    draws, questions = circle(60), np.arange(60, dtype=np.int32) % 4
    small, large = (
        list(zip(*(part.tolist() for part in walk(arc(draws, seed, count), draws, questions)[:2]), strict=True))
        for count in sorted((one, other))
    )
    kept = set(small)
    assert [turn for turn in large if turn in kept] == small


def test_the_first_accepted_are_heard_and_refusals_are_made_up_for():
    assert heard(bools("x.x.xxx"), bools("......."), 3)[0].tolist() == [0, 2, 4]
    assert heard(bools("xxx"), bools("..."), 3)[0].tolist() == [0, 1, 2]


def test_when_too_few_are_accepted_all_of_them_are_heard():
    assert heard(bools("x.x"), bools("..."), 3)[0].tolist() == [0, 2]


def test_a_quota_of_nothing_hears_nothing_and_waits_for_nothing():
    rows, waiting = heard(bools("xx."), bools("..x"), 0)
    assert (rows.tolist(), waiting) == ([], 0)


def test_when_all_are_refused_nothing_is_heard():
    rows, waiting = heard(bools("....."), bools("....."), 2)
    assert (rows.tolist(), waiting) == ([], 0)


def test_no_question_is_no_walk():
    rows, waiting = heard(bools(""), bools(""), 2)
    assert (rows.tolist(), waiting) == ([], 0)


def test_undecided_questions_count_only_before_the_quota_is_met():
    assert heard(bools("x.x."), bools(".x.x"), 2)[1] == 1
    assert heard(bools("xx.."), bools("..xx"), 2)[1] == 0
    assert heard(bools("x..."), bools(".x.x"), 2)[1] == 2

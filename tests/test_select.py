"""Which samples a stage takes: exact, nested, stable; what is heard: the first accepted, as many as asked."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarsia.manifests.select import arc, divide, heard, positions, take, walk
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
    assert len(set(take(circle(count), np.zeros(count), seed, asked).tolist())) == asked


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
    assert take(np.empty(0, np.uint64), np.empty(0), 1, 3.0).tolist() == []


def test_hours_take_the_fewest_samples_that_reach_them():
    draws, seconds = circle(10), np.arange(1.0, 11.0)
    order = arc(draws, 5, 10)
    for asked in (0.0, 0.5, 7.0, 54.9, 55.0):
        rows = take(draws, seconds, 5, asked)
        assert rows.tolist() == order[: len(rows)].tolist()
        assert seconds[rows].sum() >= asked
        assert not len(rows) or seconds[rows[:-1]].sum() < asked


def test_more_hours_than_there_are_take_everything():
    assert len(take(circle(10), np.ones(10), 5, 3600.0)) == 10


def test_fewer_hours_are_the_beginning_of_more():
    draws, seconds = circle(300), 1 + np.arange(300) % 17 / 4
    less, more = (take(draws, seconds, 9, asked).tolist() for asked in (60.0, 240.0))
    assert more[: len(less)] == less
    assert 0 < len(less) < len(more) < 300


def test_a_share_is_taken_of_every_corpus():
    assert divide(amount("20%"), [10, 101, 0], [0.0, 5.0, 1.0]) == [2, 20, 0]


def test_hours_are_divided_by_the_hours_that_each_corpus_has():
    assert divide(amount("2h"), [5, 5, 5], [3600.0, 10800.0, 0.0]) == [1800.0, 5400.0, 0.0]
    assert divide(amount("2h"), [5, 5], [0.0, 0.0]) == [0.0, 0.0]


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
    coins = [redraw(int(draws[row]), "spoken", int(turn)) for row, turn in zip(*order, strict=True)]
    assert coins == sorted(coins)


@given(SEEDS, st.integers(0, 60), st.integers(0, 60))
def test_the_walk_of_a_smaller_stage_is_the_walk_of_a_larger_one_with_gaps(seed, one, other):
    draws, questions = circle(60), np.arange(60, dtype=np.int32) % 4
    small, large = (
        list(zip(*(part.tolist() for part in walk(arc(draws, seed, count), draws, questions)), strict=True))
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

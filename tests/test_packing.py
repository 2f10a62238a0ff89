import subprocess
import sys
import zlib
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tarsia.builders import packing
from tarsia.builders.packing import Packing, fill, lower_bound

CAPACITY = 5_858  # 6,000 tokens less the longer system prompt


def costs_of(*costs):
    return np.array(costs, np.int32)


def contexts(packed: Packing) -> list[list[int]]:
    return [packed.members[a:b].tolist() for a, b in pairwise(packed.starts)]


def bits(n: int, stream: int) -> np.ndarray:
    """Fixed numbers in [0, 1), whatever numpy's generators do in later versions."""
    x = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream << 32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ x >> np.uint64(shift)) * np.uint64(factor)
    return (x >> np.uint64(11)).astype(float) / 2**53


def images_and_text(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and tiles of samples with at most 4 tiles and a thumbnail, in a fair order."""
    tiles = np.array([0, 1, 3, 4, 5])[np.searchsorted([0.09, 0.40, 0.69, 0.71], bits(n, 1))]
    normal = np.sqrt(-2 * np.log(1 - bits(n, 2))) * np.cos(2 * np.pi * bits(n, 3))
    text = np.where(tiles == 0, 400, 130) * np.exp(0.65 * normal)
    return np.minimum(256 * tiles + text.astype(int) + 26, CAPACITY).astype(np.int32), tiles.astype(np.int32)


def first_fit_decreasing(costs: np.ndarray, capacity: int) -> int:
    gaps = np.full(len(costs), capacity)
    for cost in np.sort(costs)[::-1]:
        gaps[np.argmax(gaps >= cost)] -= cost
    return int((gaps < capacity).sum())


def fewest(costs: list[int], capacity: int, units: list[int], unit_cap: int) -> int:
    """The optimum, by trying everything."""

    @cache
    def rest(at: int, bins: tuple[tuple[int, int], ...]) -> int:
        if at == len(costs):
            return len(bins)
        best = rest(at + 1, tuple(sorted([*bins, (costs[at], units[at])])))
        for i, (tokens, load) in enumerate(bins):
            if tokens + costs[at] <= capacity and load + units[at] <= unit_cap:
                grown = (tokens + costs[at], load + units[at])
                best = min(best, rest(at + 1, tuple(sorted([*bins[:i], grown, *bins[i + 1 :]]))))
        return best

    return rest(0, ())


def check(packed: Packing, costs: np.ndarray, capacity: int, units: np.ndarray | None, unit_cap: int) -> None:
    assert sorted(packed.members.tolist()) == list(range(len(costs)))
    assert packed.starts[0] == 0
    assert packed.starts[-1] == len(costs)
    assert len(packed.starts) - 1 >= packed.bound
    for members in contexts(packed):
        assert members
        assert members == sorted(members)
        assert costs[members].sum() <= capacity
        if units is not None:
            assert units[members].sum() <= unit_cap


def test_two_halves_make_a_whole():
    assert contexts(fill(costs_of(3_000, 3_000), 6_000, seed=1)) == [[0, 1]]


def test_the_missing_length_is_found_among_the_shelves():
    packed = fill(costs_of(3_328, 2_000, 600, 72), 6_000, seed=1)
    assert contexts(packed) == [[0, 1, 2, 3]]
    assert packed[2:] == (1, "tokens")


def test_no_samples_make_no_contexts():
    packed = fill(costs_of(), 6_000, seed=1)
    assert (packed.members.tolist(), packed.starts.tolist(), packed.bound, packed.binding) == ([], [0], 0, "tokens")


def test_one_sample_makes_one_context():
    assert contexts(fill(costs_of(6_000), 6_000, seed=1)) == [[0]]


def test_three_samples_just_over_half_stay_alone_and_halves_bind():
    packed = fill(costs_of(3_001, 3_001, 3_001), 6_000, seed=1)
    assert sorted(contexts(packed)) == [[0], [1], [2]]
    assert packed[2:] == (3, "halves")


def test_ten_images_of_thirteen_tiles_take_ten_contexts_when_two_do_not_fit():
    packed = fill(np.full(10, 400, np.int32), 6_000, seed=1, units=np.full(10, 13, np.int32), unit_cap=24)
    assert packed[2:] == (10, "units")
    assert len(packed.starts) == 11


def test_a_sample_longer_than_a_context_is_named():
    with pytest.raises(ValueError, match="sample 2 has 6001 tokens; a context takes samples of 1 to 6000"):
        fill(costs_of(10, 6_000, 6_001, 7_000), 6_000, seed=1)


def test_a_sample_without_tokens_is_named():
    with pytest.raises(ValueError, match="sample 1 has 0 tokens"):
        fill(costs_of(10, 0), 6_000, seed=1)


def test_a_sample_with_too_many_units_is_named():
    with pytest.raises(ValueError, match="sample 0 has 13 units; a context takes samples of 0 to 12"):
        fill(costs_of(10), 6_000, seed=1, units=costs_of(13), unit_cap=12)


def test_units_without_a_cap_are_refused():
    with pytest.raises(ValueError, match="come together"):
        fill(costs_of(10), 6_000, seed=1, units=costs_of(1))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_each_sample_has_one_place_and_no_context_is_overfull(data):
    capacity = data.draw(st.integers(1, 60))
    costs = np.array(data.draw(st.lists(st.integers(1, capacity), max_size=80)), np.int32)
    unit_cap = data.draw(st.integers(0, 9))
    units = np.array(data.draw(st.lists(st.integers(0, unit_cap), min_size=len(costs), max_size=len(costs))), np.int32)
    window = data.draw(st.integers(1, 90))
    check(fill(costs, capacity, seed=3, window=window), costs, capacity, None, 0)
    packed = fill(costs, capacity, seed=3, units=units, unit_cap=unit_cap, window=window)
    check(packed, costs, capacity, units, unit_cap)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_packing_has_fewer_contexts_than_the_bound(data):
    capacity = data.draw(st.integers(2, 30))
    costs = data.draw(st.lists(st.integers(1, capacity), min_size=1, max_size=7))
    unit_cap = data.draw(st.integers(1, 6))
    units = data.draw(st.lists(st.integers(0, unit_cap), min_size=len(costs), max_size=len(costs)))
    bound, _ = lower_bound(np.array(costs, np.int32), capacity, np.array(units, np.int32), unit_cap)
    assert -(-sum(costs) // capacity) <= bound <= fewest(costs, capacity, units, unit_cap)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=7))
def test_small_stages_are_packed_as_well_as_can_be_or_one_context_worse(costs):
    packed = fill(np.array(costs, np.int32), 30, seed=1)
    assert len(packed.starts) - 1 <= fewest(costs, 30, [0] * len(costs), 0) + 1


def test_the_bound_knows_that_two_of_three_parts_fill_no_third():
    # 2,049 is just over a third of 6,144: three never meet, so 8 samples take 4 contexts, where tokens alone say 3
    assert lower_bound(np.full(8, 2_049, np.int32), 6_144) == (4, "halves")


def test_the_same_seed_gives_the_same_plan_and_another_seed_another_order():
    costs, _ = images_and_text(3_000)
    one, same, other = (fill(costs, CAPACITY, seed=seed) for seed in (7, 7, 8))
    assert one.members.tobytes() == same.members.tobytes()
    assert one.starts.tobytes() == same.starts.tobytes()
    assert contexts(one) != contexts(other)
    assert sorted(contexts(one)) == sorted(contexts(other))


def test_any_integer_is_a_seed():
    costs, _ = images_and_text(500)
    assert contexts(fill(costs, CAPACITY, seed=-1)) == contexts(fill(costs, CAPACITY, seed=2**64 - 1))


def test_the_plan_is_the_one_of_the_first_release():
    """A change here is a change of training order: it needs an ORDER entry in the changelog."""
    costs = (100 + bits(3_000, 9) * 1_500).astype(np.int32)
    packed = fill(costs, CAPACITY, seed=1, units=costs // 400, unit_cap=14, window=1_000)
    assert contexts(packed)[:2] == [[786, 787, 789, 790, 799, 917], [497, 499, 500, 501, 503, 527, 631]]
    assert (len(packed.starts) - 1, packed.bound, packed.binding) == (433, 433, "tokens")
    assert zlib.crc32(packed.members.astype("<i4").tobytes()) == 0x7FE0CB06


def test_machine_code_and_plain_python_give_the_same_plan(monkeypatch):
    pytest.importorskip("numba")
    costs, tiles = images_and_text(12_000)
    for more in ({}, {"units": tiles, "unit_cap": 17}):
        monkeypatch.setattr(packing, "COMPILE", 10**9)
        plain = fill(costs, CAPACITY, seed=1, window=5_000, **more)
        monkeypatch.setattr(packing, "COMPILE", 0)
        compiled = fill(costs, CAPACITY, seed=1, window=5_000, **more)
        assert plain.members.tobytes() == compiled.members.tobytes()
        assert plain.starts.tobytes() == compiled.starts.tobytes()


def test_without_numba_large_stages_are_packed_by_plain_python(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(packing, "COMPILE", 0)
    packing._compiled.cache_clear()
    assert len(contexts(fill(costs_of(*[1_000] * 60), 6_000, seed=1))) == 10
    packing._compiled.cache_clear()


def test_small_stages_never_import_numba():
    pack = "import numpy, sys; from tarsia.builders.packing import fill; fill(numpy.ones(9, 'i4'), 6, seed=1)"
    subprocess.run([sys.executable, "-c", f"{pack}; assert 'numba' not in sys.modules"], check=True)


def test_twenty_thousand_samples_take_at_most_one_context_more_than_the_bound():
    costs, _ = images_and_text(20_000)
    packed = fill(costs, CAPACITY, seed=1)
    assert packed.binding == "tokens"
    assert len(packed.starts) - 1 <= packed.bound + 1
    assert first_fit_decreasing(costs[:4_000], CAPACITY) > lower_bound(costs[:4_000], CAPACITY)[0] + 1


def test_samples_meet_in_a_context_as_by_chance():
    costs, tiles = images_and_text(20_000)
    packed = fill(costs, CAPACITY, seed=1)
    sizes = np.diff(packed.starts)
    number = np.repeat(np.arange(len(sizes)), sizes)
    pairs = (sizes * (sizes - 1)).sum()
    length = (costs[packed.members] - costs.mean()) / costs.std()
    correlation = (np.bincount(number, length) ** 2 - np.bincount(number, length**2)).sum() / pairs
    assert abs(correlation) < 0.06
    kind = np.bincount(number * 6 + tiles[packed.members], minlength=len(sizes) * 6)
    chance = ((np.bincount(tiles) / len(tiles)) ** 2).sum()
    assert (kind * (kind - 1)).sum() / pairs == pytest.approx(chance, rel=0.1)
    assert sizes.std() < 1.2


def test_a_cap_on_tiles_a_tenth_above_their_density_costs_nothing():
    costs, tiles = images_and_text(20_000)
    cap = int(1.1 * tiles.sum() / costs.sum() * CAPACITY) + 1
    packed = fill(costs, CAPACITY, seed=1, units=tiles, unit_cap=cap)
    assert len(packed.starts) - 1 <= packed.bound + 1


def test_where_tiles_bind_few_contexts_are_lost_and_the_plan_says_so():
    costs, tiles = images_and_text(20_000)
    packed = fill(costs, CAPACITY, seed=1, units=tiles, unit_cap=14)
    assert packed.binding == "units"
    assert len(packed.starts) - 1 <= 1.03 * packed.bound


HARD = {
    "1,900 to 2,200": 1_900 + (bits(8_000, 4) * 301).astype(int),
    "1 to 6,144": 1 + (bits(8_000, 5) * 6_144).astype(int),
    "3,400, 2,600 and few small": np.where(bits(8_000, 6) < 0.45, 3_400, np.where(bits(8_000, 6) < 0.9, 2_600, 200)),
    "above 3,000": 3_001 + (bits(8_000, 7) * 3_144).astype(int),
    "500 to 3,100": 500 + (bits(8_000, 8) * 2_600).astype(int),
    "all 1": np.ones(8_000, int),
}


@pytest.mark.parametrize("lengths", HARD.values(), ids=HARD.keys())
def test_hard_lengths_take_hardly_more_contexts_than_first_fit_decreasing(lengths):
    packed = fill(lengths.astype(np.int32), 6_144, seed=1)
    assert len(packed.starts) - 1 <= 1.0002 * first_fit_decreasing(lengths, 6_144)


def test_windows_meet_only_at_their_edges():
    costs, _ = images_and_text(20_000)
    packed = fill(costs, CAPACITY, seed=1, window=2_000)
    spans = [members[-1] // 2_000 - members[0] // 2_000 for members in contexts(packed)]
    assert set(spans) == {0, 1}
    assert np.mean(spans) < 0.1
    places = packed.members // 2_000
    assert (np.abs(places - np.arange(20_000) // 2_000) <= 1).all()
    assert len(packed.starts) - 1 <= packed.bound + 2


def test_samples_without_a_partner_wait_for_one_in_the_next_window():
    costs = np.repeat([3_400, 2_600, 3_400, 2_600], [60, 40, 40, 60]).astype(np.int32)
    packed = fill(costs, 6_000, seed=1, window=100)
    assert len(packed.starts) - 1 == 40 + 8 + 52 + 4  # 12 of 20 lone ones wait; 8 of the other kind then pair up

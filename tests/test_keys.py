"""Keys as numbers: what is a key, and what only looks like one."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tarsia.builders.memory import kept
from tarsia.builders.tables import packed
from tarsia.manifests.keys import Keys, keys_of
from tarsia.schemas.errors import Corrupt

KEY = st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}")


@settings(max_examples=50)
@given(st.lists(KEY, max_size=5), st.integers(0, 5))
def test_keys_are_read_as_they_are_written(texts, begin):
    keys = keys_of(pa.array(["f" * 32, *texts], pa.string()).slice(1))
    assert [keys.text(number) for number in range(len(keys))] == texts
    assert keys.same(keys_of(pa.array(texts, pa.string()))).all()
    assert keys.rising() == (sorted(set(texts)) == texts)
    assert [keys[begin:].text(number) for number in range(len(keys[begin:]))] == texts[begin:]


def test_a_key_with_capitals_is_not_the_same_key():
    small, tall = "0123456789abcdef" * 2, "0123456789abcdeF" * 2
    assert packed(pa.array([small]), 16).to_pylist() == [bytes.fromhex(small)]
    with pytest.raises(Corrupt, match="capital"):
        packed(pa.array([small, tall]), 16)
    keys = keys_of(pa.array([small, tall]))
    assert (keys.text(0), keys.text(1)) == (small, "0" * 32)


@pytest.mark.parametrize("wrong", ["", None, "ab", "g" * 32, "0" * 31 + "\n", "0" * 33])
def test_what_is_no_key_is_none(wrong):
    keys = keys_of(pa.array(["1" * 32, wrong], pa.string()))
    assert (keys.text(0), keys.text(1)) == ("1" * 32, "0" * 32)


def test_of_equal_draws_the_tails_decide():
    draws = np.array([1, 1, 2], np.uint64)
    assert Keys(draws, np.array([1, 2, 0], np.uint64)).rising()
    assert not Keys(draws, np.array([2, 2, 3], np.uint64)).rising()
    assert Keys(draws[:0], draws[:0]).rising()


def test_memory_that_is_kept_is_given_back_in_the_end():
    with kept():
        held = [np.ones(1 << 18) for _ in range(8)]
        assert sum(map(len, held)) == 1 << 21
    assert np.ones(1 << 22).sum() == 1 << 22  # and whatever is asked for afterwards is there too

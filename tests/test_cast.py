"""Casting: every voice gets its share, and a change of the pool moves no more questions than it must."""

from decimal import Decimal

import numpy as np
import pyarrow as pa

from tarsia.manifests.cast import cast, identities
from tarsia.schemas.voice import Part

COUNT = 20_000
DRAWS = np.random.default_rng(5).integers(0, 1 << 63, COUNT, dtype=np.uint64) * np.uint64(2)
TURNS = np.arange(COUNT) % 3
ENGLISH = pa.array(["en"] * COUNT)


def part(name, language="en", share="1", identity=None):
    return Part(name=name, identity=identity or f"{name}-1", language=language, share=Decimal(share))


def casting(*parts, languages=ENGLISH):
    return cast(parts, DRAWS, TURNS, languages)


def test_voices_ask_in_proportion_to_their_shares():
    counts = np.bincount(casting(part("anna", share="3"), part("ben"), part("cleo", share="0.5")))
    assert np.abs(counts / COUNT - np.array([3, 1, 0.5]) / 4.5).max() < 0.01


def test_a_voice_that_is_added_takes_its_share_and_moves_nothing_else():
    few, more = casting(part("anna"), part("ben")), casting(part("anna"), part("ben"), part("cleo"))
    moved = few != more
    assert set(more[moved]) == {2}
    assert abs(moved.mean() - 1 / 3) < 0.01


def test_a_voice_that_is_replaced_under_its_name_is_replaced_only_where_it_spoke():
    before = part("anna"), part("ben")
    after = part("anna"), part("ben", identity="ben-2")
    then, now = (identities(parts, casting(*parts)) for parts in (before, after))
    assert (then[then == now] == "anna-1").all()
    assert set(now[then != now]) == {"ben-2"}


def test_the_order_of_the_pool_says_nothing():
    there = identities([part("anna"), part("ben")], casting(part("anna"), part("ben")))
    back = identities([part("ben"), part("anna")], casting(part("ben"), part("anna")))
    assert (there == back).all()


def test_each_question_has_a_voice_of_its_language_or_none():
    languages = pa.array(["en", "zh", "ja", "en"] * (COUNT // 4))
    chosen = casting(part("anna"), part("mei", "zh"), languages=languages)
    assert chosen[:4].tolist() == [0, 1, -1, 0]
    assert identities([part("anna"), part("mei", "zh")], chosen[:4]).tolist() == ["anna-1", "mei-1", "", "anna-1"]


def test_the_cast_is_the_same_for_ever():
    """Golden: another cast is an ORDER change, since other voices would ask."""
    assert casting(part("anna"), part("ben", share="2"), part("cleo"))[:12].tolist() == GOLDEN


GOLDEN = [1, 2, 1, 0, 2, 1, 1, 1, 0, 1, 2, 1]

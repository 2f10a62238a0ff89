"""Images that look alike are found, all of them; those that do not are told apart."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encoded, picture
from PIL import Image

from tarsia.builders.likeness import BITS, are_alike, hash_of, pairs_alike
from tarsia.schemas.identity import digest

pytest.importorskip("imagehash", reason="no perceptual hashes: pip install 'tarsia[near]'")


def hashed(image, **options):
    data = encoded(image, **options)
    return hash_of(data, digest(data))


def cropped(image, share):
    across, down = (int(side * share) for side in image.size)
    return image.crop((across, down, image.width - across, image.height - down))


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: hashed(image, quality=40),
        lambda image: hashed(image, form="PNG"),
        lambda image: hashed(image, form="WEBP"),
        lambda image: hashed(image.resize((image.width // 2, image.height // 2))),
        lambda image: hashed(image.resize((336, 336))),
        lambda image: hashed(image.convert("L")),
        lambda image: hashed(image.convert("RGBA"), form="PNG"),
        lambda image: hashed(cropped(image, 0.005)),
    ],
)
def test_a_copy_is_alike(copy):
    assert all(are_alike(hashed(picture(number)), copy(picture(number))) for number in range(8))


def test_pictures_are_not_alike():
    hashes = [hashed(picture(number)) for number in range(30)]
    assert not any(are_alike(one, other) for one in hashes for other in hashes if one != other)
    assert len(set(hashes)) == 30


def test_an_image_without_structure_is_like_itself_alone():
    plain = [Image.new("RGB", (80, 60), colour) for colour in ("white", "black", "red", "#0000fe")]
    hashes = [hashed(image, form="PNG") for image in plain]
    assert not any(are_alike(one, other) for one in hashes for other in hashes if one != other)
    assert hashed(plain[2], form="PNG") == hashes[2]


HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=30)
FLIPS = st.lists(st.tuples(st.integers(0, 29), st.sets(st.integers(0, 63), max_size=BITS + 2)), max_size=30)


@given(HASHES, FLIPS)
def test_every_pair_within_the_threshold_is_found_and_no_other(hashes, flips):
    near = [hashes[at % len(hashes)] ^ sum(1 << bit for bit in bits) for at, bits in flips if hashes]
    known = np.unique(np.array([*hashes, *near], dtype=np.uint64))
    each = known.tolist()
    wanted = [(a, b) for a in range(len(each)) for b in range(a + 1, len(each)) if are_alike(each[a], each[b])]
    assert list(zip(*(side.tolist() for side in pairs_alike(known)), strict=True)) == wanted


def test_a_broken_image_is_an_error_and_not_a_hash():
    data = encoded(picture(1))
    with pytest.raises((OSError, SyntaxError)):
        hash_of(data[: len(data) // 3], "0" * 32)
    with pytest.raises(OSError, match="cannot identify"):
        hash_of(io.BytesIO(b"nothing").read(), "0" * 32)

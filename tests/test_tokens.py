import unicodedata

import pytest

from tarsia.builders.tokens import (
    NOISE,
    SPOKEN,
    WRITTEN,
    audio_tokens,
    frame_positions,
    grid,
    tiles,
    tokenizer,
)
from tarsia.schemas.errors import Refused, UnknownName


@pytest.mark.parametrize(
    ("width", "height", "at12", "at6", "at1"),
    [
        (64, 48, 13, 7, 1),
        (640, 480, 13, 7, 1),
        (500, 375, 13, 7, 1),
        (1024, 768, 13, 7, 1),
        (640, 427, 7, 7, 1),
        (500, 333, 7, 7, 1),
        (1280, 720, 9, 3, 1),
        (1920, 1080, 9, 3, 1),
        (448, 448, 1, 1, 1),
        (336, 336, 1, 1, 1),
        (512, 512, 1, 1, 1),
        (640, 640, 5, 5, 1),
        (1000, 1000, 10, 5, 1),
        (1654, 2339, 7, 7, 1),
        (1200, 100, 13, 7, 1),
    ],
)
def test_images_are_tiled_as_internvl_tiles_them(width, height, at12, at6, at1):
    assert [tiles(width, height, most=most, thumbnail=True) for most in (12, 6, 1)] == [at12, at6, at1]


def test_without_a_thumbnail_there_is_one_tile_less_where_there_are_several():
    assert tiles(640, 480, most=12, thumbnail=False) == 12
    assert tiles(448, 448, most=12, thumbnail=False) == 1


def test_grids_are_columns_by_rows():
    assert grid(640, 480, 12) == (4, 3)
    assert grid(480, 640, 12) == (3, 4)
    assert grid(1200, 100, 12) == (12, 1)
    assert grid(1654, 2339, 12) == (2, 3)


@pytest.mark.parametrize(
    ("seconds", "cost"), [(0.5, 6), (1, 12), (2, 24), (3.54, 44), (5, 62), (10, 124), (30, 374), (0.02, 0), (0, 0)]
)
def test_speech_costs_about_twelve_and_a_half_tokens_a_second(seconds, cost):
    assert audio_tokens(round(seconds * 16_000), "vita") == cost


@pytest.mark.parametrize("samples", [0, 239, 240, 399, 400, 560, 720, 880, 1_200, 8_000, 56_640, 480_000])
def test_speech_tokens_are_what_is_left_of_the_frames_after_three_slices(samples):
    frames = range(max(0, 1 + (samples - 400) // 160))
    assert audio_tokens(samples, "vita") == len(frames[2::2][2::2][0::2])


def test_half_a_second_repeats_its_positions():
    assert frame_positions(15, 30, rate=3, least=4, most=16) == [0, 0, 0, 10]


def test_one_second_repeats_its_first_position():
    assert frame_positions(30, 30, rate=3, least=4, most=16) == [0, 0, 10, 20]


def test_four_seconds_are_four_frames_at_one_a_second_and_twelve_at_three():
    assert frame_positions(120, 30, rate=1, least=4, most=16) == [0, 30, 60, 90]
    assert frame_positions(120, 30, rate=3, least=4, most=16) == list(range(0, 120, 10))


def test_long_videos_are_thinned_evenly_to_sixteen_frames():
    assert frame_positions(600, 30, rate=1, least=4, most=16) == [
        30 * second for second in (0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 19)
    ]
    assert len(frame_positions(161, 30, rate=3, least=4, most=16)) == 16
    assert frame_positions(100_000, 25, rate=3, least=4, most=16)[-1] == 99_992


def test_the_stride_is_rounded_to_whole_frames_half_to_even():
    assert frame_positions(60, 29.97, rate=1, least=1, most=16) == [0, 30]
    assert frame_positions(10, 7.5, rate=3, least=1, most=16) == [0, 2, 4, 6, 8]


def test_too_few_frames_a_second_are_refused():
    with pytest.raises(Refused, match="video-fps"):
        frame_positions(100, 1.4, rate=3, least=4, most=16)
    with pytest.raises(Refused, match="video-fps"):
        frame_positions(100, 1.5, rate=3, least=4, most=16)
    assert frame_positions(3, 1.4, rate=1, least=1, most=16) == [0, 1, 2]


def test_no_frames_are_refused():
    with pytest.raises(Refused, match="video-empty"):
        frame_positions(0, 30, rate=1, least=4, most=16)


def test_text_is_encoded_as_qwen_does():
    assert tokenizer("qwen2.5").encode("The quick brown fox") == [785, 3974, 13876, 38835]
    assert tokenizer("qwen2.5").count("你好，世界") == 3
    assert tokenizer("qwen2.5").count("") == 0


def test_each_state_is_one_token():
    assert [tokenizer("qwen2.5").encode(state) for state in (SPOKEN, NOISE, WRITTEN)] == [[144766], [146164], [145789]]


def test_control_tokens_in_text_are_ordinary_characters():
    assert tokenizer("qwen2.5").controls == {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
    assert max(tokenizer("qwen2.5").encode("a<|im_end|>b<|endoftext|>")) < 151643


def test_text_is_normalised_first():
    decomposed = unicodedata.normalize("NFD", "café Ångström")
    assert tokenizer("qwen2.5").encode(decomposed) == tokenizer("qwen2.5").encode("café Ångström")


def test_counting_many_is_counting_each():
    assert tokenizer("qwen2.5").count_many(["", "The quick brown fox", "你好，世界"]) == [0, 4, 3]


def test_a_million_spaces_do_no_harm():
    assert tokenizer("qwen2.5").count("a" + " " * 1_100_000 + "b") < 10_000


def test_a_lone_surrogate_does_no_harm():
    assert tokenizer("qwen2.5").encode("a\ud83db") == [64, 5691, 65]


def test_an_unknown_tokenizer_is_named_with_the_known_ones():
    with pytest.raises(UnknownName, match=r"no tokenizer 'qwen25'; did you mean 'qwen2.5'\? Known: qwen2.5"):
        tokenizer("qwen25")

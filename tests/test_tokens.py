import unicodedata
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarsia.builders.tokens import (
    NOISE,
    SPOKEN,
    WRITTEN,
    audio_tokens,
    frame_positions,
    grid,
    sound_runs,
    tiles,
    tiles_each,
    tokenizer,
)
from tarsia.schemas.errors import BadRecipe, Refused, UnknownName
from tarsia.schemas.identity import digest


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


# --- other vocabularies ---------------------------------------------------------------------------------------------


def ranks(folder):
    """A .tiktoken file of the 256 bytes and one pair."""
    tokens = [bytes([byte]) for byte in range(256)] + [b"12"]
    lines = [f"{b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (folder / "bytes.tiktoken").write_text("\n".join(lines))
    return str(folder / "bytes.tiktoken")


def test_a_tiktoken_file_is_cut_into_words_by_qwens_pattern_or_its_own(tmp_path):
    name = ranks(tmp_path)
    assert tokenizer(name).encode("a12") == [97, 49, 50]  # Qwen2.5 takes digits one by one
    assert tokenizer(name, r"\p{L}+|\p{N}{1,3}").encode("a12") == [97, 256]
    assert tokenizer(name).control("<|im_start|>") == [258]
    assert tokenizer(name).count("☞") == 3


def test_a_vocabulary_is_named_by_its_bytes(tmp_path):
    name = ranks(tmp_path)
    assert tokenizer(name).digest == digest((tmp_path / "bytes.tiktoken").read_bytes())
    assert tokenizer("qwen2.5").digest != tokenizer(name).digest


def test_what_looks_like_a_control_token_is_text_to_a_vocabulary_of_hugging_face(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="tarsia[hub] is not installed")
    words = tokenizers.Tokenizer(tokenizers.models.BPE())
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=257, special_tokens=["<|im_end|>"], initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator([], trainer)
    words.save(str(tmp_path / "tokenizer.json"))
    mine = tokenizer(str(tmp_path / "tokenizer.json"))
    assert mine.control("<|im_end|>") == [0]
    assert len(mine.control("<|im_start|>")) == len("<|im_start|>")
    assert mine.count("a<|im_end|>") == 1 + len("<|im_end|>")
    assert mine.count("a\ud83db") == 5


@pytest.mark.parametrize(
    ("file", "said"),
    [("missing.json", "cannot be read: No such file"), ("bad.json", "not a vocabulary"), ("bad.tiktoken", "not a voc"),
     ("empty.tiktoken", "not a vocabulary: no ranks in it")],
)  # fmt: skip
def test_a_file_that_is_no_vocabulary_is_told(tmp_path, file, said):
    for name in ("bad.json", "bad.tiktoken"):
        (tmp_path / name).write_text("{ no")
    (tmp_path / "empty.tiktoken").write_text("")
    with pytest.raises(BadRecipe, match=f"tokenizer {tmp_path}/{file}: {said}"):
        tokenizer(str(tmp_path / file))


# --- images of one sample, sounds between text ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "cap", "each"),
    [([(640, 480)], 13, 12), ([(640, 480)], 12, 11), ([(640, 480)] * 2, 26, 12), ([(640, 480)] * 2, 14, 11),
     ([(640, 480)] * 2, 13, 5), ([(640, 480)] * 9, 2, 1), ([], 1, 12)],
)  # fmt: skip
def test_images_share_the_tiles_of_their_sample(sizes, cap, each):
    assert tiles_each(sizes, most=12, thumbnail=True, cap=cap) == each
    assert tiles_each(sizes, most=12, thumbnail=True, cap=None) == 12


@given(st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 2000)), max_size=5), st.integers(1, 40))
def test_more_for_each_image_would_be_too_many_for_the_sample(sizes, cap):
    each = tiles_each(sizes, most=9, thumbnail=True, cap=cap)
    counts = [sum(tiles(*size, most=most, thumbnail=True) for size in sizes) for most in range(1, 10)]
    assert counts[each - 1] <= cap or each == 1
    assert all(count > cap for count in counts[each:])


@pytest.mark.parametrize(
    ("text", "sound", "runs"),
    [(0, 50, 1), (1, 50, 1), (2, 50, 2), (5, 50, 2), (6, 50, 3), (100, 8, 1), (100, 9, 2), (100, 50, 7)],
)
def test_sound_is_cut_between_the_runs_of_its_text(text, sound, runs):
    assert sound_runs(text, sound, (1, 10, 4, 10)) == runs
    assert sound_runs(text, sound, ()) == 1


@pytest.mark.parametrize(("samples", "codes"), [(0, 2), (1, 3), (1280, 3), (1281, 4), (480_000, 377)])
def test_codes_are_of_80_milliseconds_between_two_markers(samples, codes):
    assert audio_tokens(samples, "glm4voice") == codes

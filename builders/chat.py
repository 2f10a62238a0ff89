"""What the model reads: a conversation rendered in VITA-1.5's ChatML, for the planner's lengths and the trainer's ids.

    <|im_start|>system⏎ prompt <|im_end|>                                    once a context, chosen by its media
    ⏎<|im_start|>user⏎ <image>⏎ question <|im_end|>                          a human turn
    ⏎<|im_start|>assistant⏎ ☜ answer <|im_end|>                              a gpt turn: its state, its answer

A rendered turn is a list of **pieces**: text, control tokens and media. Text pieces are tokenised one by one, and no
token spans two of them, so lengths add up: system block + turns + media = the exact length of a context, whatever is
packed into it. The newline that joins a turn to what stands before it is counted with the turn: VITA's system prompts,
which its packer takes for 93 and 142 tokens, are 92 and 141 here, and one newline.

The state is tokenised together with the answer, as VITA's loader does it, with one exception. Three tokens of Qwen2.5
join the last byte of a state to a character (☞性, ☟能, ☜력), so that VITA's model loses the state's own token there. An
answer that begins with one of the three stands in a piece of its own, and then every answer costs the same after each
state, whichever question it belongs to. Of another vocabulary that is not known, and its states may be several tokens:
there the answer is counted after each.
"""

import re
from collections.abc import Iterable, Sequence
from enum import Enum

from tarsia.builders.speech import parts
from tarsia.builders.tokens import NOISE, SPOKEN, WRITTEN, Tokenizer
from tarsia.schemas.recipe import Context, States
from tarsia.schemas.sample import AUDIO, IMAGE, PLACEHOLDER, VIDEO, Kind, Turn


class Control(Enum):
    """A token that text cannot spell."""

    START = "<|im_start|>"
    END = "<|im_end|>"


class Medium(Enum):
    """Where media stand: all tiles of an image, all frames of a video, all tokens of an audio."""

    IMAGE = IMAGE
    VIDEO = VIDEO
    AUDIO = AUDIO


Piece = str | Control | Medium


# VITA-1.5's system prompts, to the letter, with the blank that ends each line but the last.
_COMMON = (
    "You are an AI robot and your name is VITA. \n"
    "- You are a multimodal large language model developed by the open source community. "
    "Your aim is to be helpful, honest and harmless. \n"
    "- You support the ability to communicate fluently and answer user questions in multiple languages "
    "of the user's choice. \n"
    "- If the user corrects the wrong answer you generated, you will apologize and discuss the correct answer "
    "with the user."
)
_SEEING = (
    " \n- You must answer the question strictly according to the content of the {seen} given by the user, "
    "and it is strictly forbidden to answer the question without the content of the {seen}. "
    "Please note that you are seeing the {seen}, not the {other}."
)
PROMPTS = {
    "text": _COMMON,
    "image": _COMMON + _SEEING.format(seen="image", other="video"),
    "video": _COMMON + _SEEING.format(seen="video", other="image"),
}


def prompt_of(modalities: Iterable[str]) -> str:
    """Which prompt a context carries, by the modalities (`text`, `image+audio` …) of the samples in it."""
    media = {medium for modality in modalities for medium in modality.split("+")}
    return next((name for name in ("video", "image") if name in media), "text")


def system(prompt: str) -> list[Piece]:
    """The pieces of the system block that opens a context."""
    return [Control.START, "system\n" + PROMPTS[prompt], Control.END]


def pieces(turn: Turn, *, spoken: bool, state: str) -> list[Piece]:
    """The pieces of one turn; `spoken` turns a human turn's text into speech, `state` opens a gpt turn's answer."""
    if turn.speaker == "gpt":
        opening, answer = "assistant\n" + state, _laid_out(turn.text)
        body = [opening, *_split(answer)] if answer.startswith(_CLINGING) else _split(opening + answer)
    else:
        question = heard_text(turn.text) if spoken else turn.text
        body = _split("user\n" + _laid_out(question))
    return ["\n", Control.START, *body, Control.END]


_CLINGING = ("性", "能", "력")


def heard_text(text: str) -> str:
    """The text of a question that is heard: its media, the audio that replaces its words, and what stays written."""
    _, form = parts(text)
    return "".join(PLACEHOLDER.findall(text)) + AUDIO + (f"\n{form}" if form else "")


def _laid_out(text: str) -> str:
    """A turn's text as VITA's loader lays it out: pictures before the words where they ended them, then a newline.

    A video is laid out like an image, its frames standing where the tiles would.
    """
    if IMAGE in text or VIDEO in text:
        text = text.replace(IMAGE + "\n", IMAGE).strip().replace("\n" + IMAGE, IMAGE).strip()
        if ending := _ENDING.search(text):
            text = ending[0] + text[: ending.start()].strip()
    text = text.replace(IMAGE, IMAGE + "\n").replace(VIDEO, VIDEO + "\n").replace(AUDIO + "\n", AUDIO)
    return text.replace("\n\n", "\n")


def _split(text: str) -> list[Piece]:
    parts = _MEDIUM.split(text)
    return [Medium(part) if at % 2 else part for at, part in enumerate(parts) if part]


_ENDING = re.compile(f"(?:{IMAGE}|{VIDEO})+$")
_MEDIUM = re.compile(f"({PLACEHOLDER.pattern})")


STATES: dict[States, tuple[str, str, str]] = {  # the question was spoken, was noise, was written
    "tokens": (SPOKEN, NOISE, WRITTEN),  # VITA-1.5
    "numbers": ("<1>", "<2>", "<3>"),  # VITA-1.0
    "labels": ("", "", ""),  # for a classifier: the trainer labels the last position of the question's sound
    "none": ("", "", ""),  # VITA-Audio
}


def state_after(question: Turn, *, spoken: bool, noise: bool, states: States) -> str:
    """The state that opens the answer to a question, as `states` spell it."""
    heard, unmeant, read = STATES[states]
    if noise:
        return unmeant
    return heard if spoken or AUDIO in question.text else read


def as_met(turns: Sequence[Turn], kind: str, language: str, context: Context) -> list[Turn]:
    """A conversation as it is trained on, under the recipe's settings.

    Where text and sound alternate, an answer of sound begins with its text. VITA-Audio's loader does so: who is asked
    to say a text answers with the tokens of the text and its sound in turn. And a recording that is to be recognised,
    with no words beside it, is asked for its transcript in those of the recipe.
    """
    met = list(turns)
    request = next((said for own, said in context.request.items() if own == language and kind == Kind.ASR), None)
    for at, turn in enumerate(turns):
        bare = turn.text.strip() == AUDIO
        if request and bare and turn.speaker == "human":
            met[at] = turn.model_copy(update={"text": f"{AUDIO}\n{request}"})
        elif context.interleave and bare and at and turn.speaker == "gpt":
            met[at] = turn.model_copy(update={"text": PLACEHOLDER.sub("", turns[at - 1].text).strip() + AUDIO})
    return met


def turn_tokens(tokenizer: Tokenizer, turn: Turn, *, spoken: bool, state: str) -> int:
    """The tokens of a rendered turn, its media not counted."""
    return _tokens(tokenizer, pieces(turn, spoken=spoken, state=state))


def system_tokens(tokenizer: Tokenizer, prompt: str) -> int:
    """The tokens of the system block, without the newline that the first turn brings: 92 for text, 141 for pictures."""
    return _tokens(tokenizer, system(prompt))


def _tokens(tokenizer: Tokenizer, rendered: list[Piece]) -> int:
    return sum(map(len, (ids_of(tokenizer, piece) for piece in rendered)))


def ids_of(tokenizer: Tokenizer, piece: Piece) -> list[int]:
    """The ids of a piece; media have none."""
    if isinstance(piece, str):
        return tokenizer.encode(piece)
    return tokenizer.control(piece.value) if isinstance(piece, Control) else []


def neutralise(text: str, *, keep: bool) -> str:
    """Corpus text that no loader takes for structure: what looks like it gets one U+2060 (word joiner), invisible.

    After the `<` of placeholders and of Qwen2.5's control tokens, and before a state that opens the text. With `keep`,
    placeholders are the turn's own and stay. `restore` gives back any text as it was.
    """
    if text[:1] in _OPENING:
        text = _STATE.sub(lambda like: like[0] + _JOINER, text)
    if "<" not in text:
        return text
    return _LIKENESS.sub(
        lambda like: like[0] if keep and like["medium"] and not like["joiners"] else like[0] + _JOINER, text
    )


def restore(text: str) -> str:
    """The corpus's own text again, which `neutralise` was given."""
    return _LIKENESS.sub(_less, _STATE.sub(_less, text))


def _less(like: re.Match[str]) -> str:
    return like[0].removesuffix(_JOINER)


_JOINER = "\u2060"
_OPENING = f"{_JOINER}{SPOKEN}{NOISE}{WRITTEN}"  # what a text begins with that opens with a state
_STATE = re.compile(rf"\A{_JOINER}*(?=[{SPOKEN}{NOISE}{WRITTEN}])")
_LIKENESS = re.compile(  # begins with a letter that regular expressions can search for
    rf"""< (?= {_JOINER}* (?: (?P<medium> (?:image|video|audio)> )
                            | \| [^<>|\s{_JOINER}]+ \|>
                            | /?tool_call> ) )
        (?P<joiners> {_JOINER}* )""",
    re.VERBOSE,
)

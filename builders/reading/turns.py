"""Conversations as the LLaVA and ShareGPT families write them: `from` and `value`, or `role` and `content`.

Both come with every mixture of role names. What a trainer needs is human and gpt by turns, from a question to an
answer, so three things that those corpora hold by habit are mended here: a greeting of the model before the first
question and a last question without an answer are left out, and a human turn that holds only a picture belongs to the
question after it (UReader writes them apart). Everything else that is out of order is refused.
"""

from typing import Any, Literal

from tarsia.builders.chat import neutralise
from tarsia.builders.reading import fields
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import AUDIO, IMAGE, PLACEHOLDER, VIDEO, Draft, Turn

TURNS = ("conversations", "conversation", "messages")  # keys under which the list of turns stands

_SPEAKERS: dict[Any, Literal["human", "gpt"]] = {
    "human": "human",
    "user": "human",
    "gpt": "gpt",
    "assistant": "gpt",
    "chatgpt": "gpt",
    "bing": "gpt",
    "bard": "gpt",
}


def turns(said: Any) -> tuple[Turn, ...]:
    """The turns of a list of turns, human and gpt alternating; their text is as the corpus wrote it."""
    if not isinstance(said, list):
        raise Refused("record-shape", "conversations: a list of turns was due")
    found: list[Turn] = []
    for number, entry in enumerate(said):
        turn = _turn(entry, number)
        if turn is None or not found and turn.speaker == "gpt":
            continue
        if found and found[-1].speaker == turn.speaker:
            if turn.speaker == "gpt" or not _only_media(found[-1].text):
                raise Refused("roles-order", f"turn {number} is {turn.speaker}'s, as the one before it")
            turn = say("human", f"{found.pop().text.rstrip()}\n{turn.text}")
        found.append(turn)
    if len(found) > 1 and found[-1].speaker == "human":
        found.pop()
    if not found:
        raise Refused("conversation-empty", "no question and answer in it")
    if len(found) == 1:
        raise Refused("answer-empty", "the only question has no answer")
    for number, turn in enumerate(found):
        if not turn.text.strip():
            raise Refused("answer-empty" if number % 2 else "question-empty", f"turn {number} says nothing")
    return tuple(found)


def _turn(entry: Any, number: int) -> Turn | None:
    if not isinstance(entry, dict):
        raise Refused("record-shape", f"turn {number}: an object was due")
    role = entry.get("from", entry.get("role"))
    text = entry.get("value", entry.get("content"))
    if not isinstance(role, str) or role not in _SPEAKERS and role != "system":
        raise Refused("roles-unknown", f"turn {number} is by {str(role)[:40]!r}")
    if not isinstance(text, str):
        raise Refused("text-missing", f"turn {number} has no text")
    if role != "system":
        return say(_SPEAKERS[role], text)
    if text.strip():
        raise Refused("roles-system", f"turn {number} is a system prompt; contexts bring their own")
    return None


def _only_media(text: str) -> bool:
    return bool(PLACEHOLDER.search(text)) and not PLACEHOLDER.sub("", text).strip()


def exchange(question: str, answer: str) -> tuple[Turn, Turn]:
    """One question and its answer, as turns."""
    return say("human", question), say("gpt", answer)


def say(speaker: Literal["human", "gpt"], text: str) -> Turn:
    """One turn."""
    return Turn.model_validate({"from": speaker, "value": text})


def instruction(record: dict[str, Any]) -> Draft:
    """The draft of an instruction, below it what it is about, if anything, and the output as its answer."""
    asked, answer = fields.text(record, "instruction"), fields.text(record, "output")
    given = "" if record.get("input") is None else fields.text(record, "input")
    question = "\n".join(part for part in (asked, given) if part.strip())
    if not question:
        raise Refused("question-empty", "neither instruction nor input says anything")
    if not answer.strip():
        raise Refused("answer-empty", "the output says nothing")
    return Draft(turns=exchange(neutralise(question, keep=False), neutralise(answer, keep=False)))


def talk(said: Any) -> Draft:
    """The draft of a conversation that is text and nothing else."""
    return Draft(turns=tuple(say(turn.speaker, neutralise(turn.text, keep=False)) for turn in turns(said)))


def about_media(
    said: Any,
    own: str,
    *,
    images: tuple[str, ...] = (),
    videos: tuple[str, ...] = (),
    audios: tuple[str, ...] = (),
) -> Draft:
    """The draft of a conversation about media, with a placeholder for each.

    Media that no human turn mentions are put before the first question. In human turns a placeholder is genuine if the
    record has media of its sort, or if it is the corpus's `own`: a LLaVA record that says `<image>` and names none has
    lost it. All others (`<video>` is also an HTML tag) are text, and so is every one that the model says.
    """
    spoken = turns(said)
    media = {IMAGE: images, VIDEO: videos, AUDIO: audios}
    genuine = [name for name in media if media[name] or name == own]
    asked = "".join(turn.text for turn in spoken if turn.speaker == "human")
    front = "".join(f"{name}\n" * len(media[name]) for name in media if name not in asked)
    mended = []
    for number, turn in enumerate(spoken):
        text = neutralise(front * (number == 0) + turn.text, keep=False)
        for name in genuine if turn.speaker == "human" else ():
            text = text.replace(_AS_TEXT[name], name)
        mended.append(turn if text == turn.text else say(turn.speaker, text))
    return Draft(turns=tuple(mended), images=images, videos=videos, audios=audios)


_AS_TEXT = {name: neutralise(name, keep=False) for name in (IMAGE, VIDEO, AUDIO)}

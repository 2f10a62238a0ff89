"""What every corpus of sounds ends in: a sound and its words, in the direction of the corpus's kind.

Recognition asks with the speech alone and answers with the transcript; synthesis asks with the text and answers with
the speech; a caption answers a question about what is heard. Which question is a draw of the record's key.
"""

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.turns import exchange
from tarsia.schemas.errors import Refused
from tarsia.schemas.identity import CIRCLE, draw_of, redraw
from tarsia.schemas.sample import AUDIO, Draft, Kind

SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a")  # of sounds, the first that is there

QUESTIONS = {
    "en": (
        "What can you hear in this recording?",
        "Please describe this sound.",
        "Tell me in a sentence what is heard here.",
        "What is going on in this audio clip?",
        "Give a short description of the recording.",
        "How would you caption this sound?",
        "Listen to the clip and say what it is.",
        "Could you tell me what makes this sound?",
        "Sum up briefly what can be heard.",
    ),
    "zh": (
        "这段录音里能听到什么？",
        "请描述一下这段声音。",
        "用一句话说说你听到的内容。",
        "这段音频里正在发生什么？",
        "请简单介绍一下这段录音。",
        "给这段声音写一句说明吧。",
        "听听这段音频，告诉我是什么声音。",
        "能说说这是什么发出的声音吗？",
        "请概括一下你听到了什么。",
    ),
}


def is_sound(path: str) -> bool:
    """Whether a file is a sound, by its name."""
    return path.lower().endswith(SUFFIXES)


def speech(said: str, audio: str, at: At, speaker: object = None) -> Draft:
    """The draft of a sound and its words."""
    said = said.strip()
    if not said:
        raise Refused("answer-empty", "the recording has no transcript")
    words = neutralise(said, keep=False)
    turns = exchange(AUDIO, words)
    if at.corpus.kind is Kind.TTS:
        turns = exchange(words, AUDIO)
    elif at.corpus.kind is Kind.CAPTION:
        questions = QUESTIONS[language_of(at.corpus.language, said)]
        turns = exchange(f"{AUDIO}\n{questions[redraw(draw_of(at.key), 'template') * len(questions) // CIRCLE]}", words)
    return Draft(turns=turns, audios=(audio,), speaker=speaker if isinstance(speaker, str) and speaker else None)

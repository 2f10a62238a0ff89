"""What every corpus of sounds ends in: a sound and its words, in the direction of the corpus's kind.

Recognition asks with the speech alone and answers with the transcript; synthesis asks with the text and answers with
the speech, each with a question only where the catalog gives one; a caption answers a question about what is heard.
Which question is a draw of the record's key.
"""

from tarsia.builders.chat import neutralise
from tarsia.builders.corpora import At
from tarsia.builders.reading.language import language_of
from tarsia.builders.reading.templates import choose
from tarsia.builders.reading.turns import exchange
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import AUDIO, Draft, Kind

SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a")  # of sounds, the first that is there


def is_sound(path: str) -> bool:
    """Whether a file is a sound, by its name."""
    return path.lower().endswith(SUFFIXES)


def speech(said: str, audio: str, at: At, speaker: object = None) -> Draft:
    """The draft of a sound and its words."""
    said = said.strip()
    if not said:
        raise Refused("answer-empty", "the recording has no transcript")
    words, kind, language = neutralise(said, keep=False), at.corpus.kind, language_of(at.corpus.language, said)
    if kind is Kind.TTS:
        asked = f"{choose('speak-text', language, at)}\n{words}" if at.corpus.template else words
        turns = exchange(asked, AUDIO)
    elif kind is Kind.CAPTION:
        turns = exchange(f"{AUDIO}\n{choose('sound', language, at)}", words)
    else:
        asked = f"{AUDIO}\n{choose('transcribe-speech', language, at)}" if at.corpus.template else AUDIO
        turns = exchange(asked, words)
    return Draft(turns=turns, audios=(audio,), speaker=speaker if isinstance(speaker, str) and speaker else None)

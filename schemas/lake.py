"""Lake: a folder or bucket of immutable objects, and numbered snapshots that say which of them are the lake now.

    lake/
      corpora/<corpus>/<leaf>-<digest8>.tar .parquet .text.parquet
      origins/<corpus>/…  quarantine/<corpus>/…  contents/<corpus>/…
      excluded/<set>/…  duplicates/…
      speech/<pool>/<corpus>/<leaf>-<digest8>.tar .parquet
      clips/<pool>/…  verdicts/<pool>/00000001.parquet  voices/<pool>/…
      codec/<codec>/<corpus>/…   what a codec made of speech
      spoken/<rules>/<corpus>/…  what questions become when they are said; a cache
      tombstones/corpora/<corpus>/…  tombstones/media/…  tombstones/receipts/00000001.json
      commits/…                  one record a finished task: resume = plan minus commits
      snapshots/00000012.json    published by conditional create, last
      stages/<model>/<stage>/manifest.json …

A reader opens the highest snapshot and then only what it lists; whatever else lies there is work in flight or the past.
"""

from collections.abc import Callable

from pydantic import Field

from tarsia.schemas.corpus import Corpus
from tarsia.schemas.identity import digest_of
from tarsia.schemas.model import Model
from tarsia.schemas.shard import Shard, Stored
from tarsia.schemas.voice import Part

FORMAT = 3  # of objects and records; a change needs a FORMAT entry in the changelog
ORDER = 1  # of draw, sort and fill; a change needs an ORDER entry and new golden values


class CorpusState(Model):
    """One corpus as it stands in the lake. `source` is the digest of what was read, to see whether it changed."""

    corpus: Corpus
    source: str
    records: int
    quarantined: dict[str, int] = {}  # reason code -> records
    identities: dict[str, int] = {}  # own | collided | missing -> records
    notes: dict[str, int] = {}  # trait of stored images, or change that a rule made -> images
    shards: tuple[Shard, ...] = ()
    quarantine: Stored | None = None
    taken_down: int = 0  # records
    tombstones: Stored | None = None  # which
    origins: tuple[Stored, ...] = ()
    contents: Stored | None = None  # what its samples are compared by
    compared: str = ""  # digest of all that they were compared with before they were built

    @property
    def samples(self) -> int:
        """Samples in the shards."""
        return sum(shard.samples - shard.taken_down for shard in self.shards)

    @property
    def questions(self) -> int:
        """Human turns in the shards."""
        return sum(shard.questions for shard in self.shards)


class ExcludedSet(Model):
    """An evaluation set that samples were compared with: what was read, and what could not be (code -> records)."""

    corpus: Corpus
    source: str
    records: int
    unread: dict[str, int] = {}
    shows: tuple[str, ...] = ()  # images | videos | audios
    rows: Stored


class Repeats(Model):
    """How many samples of a corpus have an equal in it, and how many have one in another corpus of the lake."""

    corpus: str
    within: int
    across: int


class SpeechState(Model):
    """The sidecars of one corpus, spoken by one pool of voices.

    `cast` and `rules` are what they were decided by: where a question is now given another voice, or the spoken forms
    follow other rules, what stands here is out of date.
    """

    pool: str
    corpus: str
    cast: tuple[Part, ...] = ()
    rules: str = ""
    shards: tuple[Shard, ...] = ()


class CodesState(Model):
    """What one codec has made of the speech of one corpus; each shard is one table."""

    codec: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    corpus: str
    shards: tuple[Shard, ...] = ()


class Snapshot(Model):
    """The lake at one moment."""

    number: int
    format: int = FORMAT
    order: int = ORDER
    corpora: tuple[CorpusState, ...] = ()
    speech: tuple[SpeechState, ...] = ()
    codes: tuple[CodesState, ...] = ()
    excluded: tuple[ExcludedSet, ...] = ()
    repeats: tuple[Repeats, ...] = ()  # of the corpora that have any
    duplicates: Stored | None = None  # the list of them

    def corpus(self, name: str) -> CorpusState | None:
        """The state of one corpus, or None."""
        return next((state for state in self.corpora if state.corpus.name == name), None)

    def sidecars(self, pool: str, corpus: str) -> SpeechState | None:
        """The sidecars of one corpus, or None."""
        return next((state for state in self.speech if (state.pool, state.corpus) == (pool, corpus)), None)

    def coded(self, codec: str, corpus: str) -> CodesState | None:
        """What a codec has made of one corpus, or None."""
        return next((state for state in self.codes if (state.codec, state.corpus) == (codec, corpus)), None)

    def part(self, wants: Callable[[Corpus], bool], pool: str | None) -> "Snapshot":
        """What a stage sees of the lake: the corpora that it wants, and the speech of its pool."""
        corpora = tuple(state for state in self.corpora if wants(state.corpus))
        names = {state.corpus.name for state in corpora}
        speech = tuple(state for state in self.speech if state.pool == pool and state.corpus in names)
        return self.model_copy(update={"corpora": corpora, "speech": speech})

    @property
    def digest(self) -> str:
        """What the lake holds, whatever the number of steps it took to get there."""
        corpora = [[state.corpus.name, state.records, _objects(state.shards)] for state in self.corpora]
        speech = [[state.pool, state.corpus, _objects(state.shards)] for state in self.speech]
        return digest_of([self.format, self.order, sorted(corpora), sorted(speech)])


def _objects(shards: tuple[Shard, ...]) -> list[str]:
    return [stored.digest for shard in shards for stored in shard.objects]


def snapshot_path(number: int) -> str:
    """`snapshots/00000012.json`."""
    return f"snapshots/{number:08d}.json"

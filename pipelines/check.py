"""`tarsia ingest --check`: the first records of each corpus, as they would be understood. Nothing is written."""

from collections.abc import Sequence
from itertools import islice

from tarsia.builders.corpora import At, Fault, Raw, find
from tarsia.builders.media import Media, to_rows
from tarsia.builders.records import understand
from tarsia.builders.samples import admit
from tarsia.builders.storage import open_store
from tarsia.pipelines.ingest import chosen, survey
from tarsia.schemas.corpus import Catalog, Corpus
from tarsia.schemas.errors import Refused, UserError
from tarsia.schemas.identity import canonical, digest, key_of
from tarsia.schemas.model import Model
from tarsia.schemas.sample import Sample


class Understood(Model):
    """One record: the sample that it would become, or why it would be refused."""

    file: str
    id: str
    sample: Sample | None = None
    refused: str | None = None


class Checked(Model):
    """One corpus: what its records are, how many files it has, and its first records; or what is wrong with it."""

    corpus: str
    record: str = ""
    files: int = 0
    first: tuple[Understood, ...] = ()
    wrong: str | None = None


def check(catalog: Catalog, *, only: Sequence[str] = (), count: int = 3) -> list[Checked]:
    """Understands the first `count` records of each corpus, media included."""
    return [_checked(corpus, count) for corpus in chosen(catalog, only)]


def _checked(corpus: Corpus, count: int) -> Checked:
    try:
        files, _ = survey(corpus)
        reader, source = find(corpus.format), open_store(corpus.root)
        found = ((entry.path, one) for entry in files for one in reader.read(source, entry.path))
        first = tuple(_understood(corpus, file, one) for file, one in islice(found, count))
    except UserError as error:
        return Checked(corpus=corpus.name, wrong=str(error))
    return Checked(corpus=corpus.name, record=reader.RECORD, files=len(files), first=first)


def _understood(corpus: Corpus, file: str, found: Raw | Fault) -> Understood:
    if isinstance(found, Fault):
        place = f"bytes {found.begin} to {found.end}"
        return Understood(file=file, id=place, refused=f"{found.code}: {found.message}")
    identity = found.id if found.id is not None else "#" + digest(canonical(found.record))[:12]
    key = key_of(corpus.name, identity)
    try:
        draft = understand(found.record, At(corpus, file, key), find(corpus.format))
        media = Media(open_store(corpus.root), to_rows(found.media))
        sample, _ = admit(draft, corpus, key, identity, media)
    except Refused as error:
        return Understood(file=file, id=identity, refused=str(error))
    return Understood(file=file, id=identity, sample=sample)

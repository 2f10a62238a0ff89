"""`tarsia ingest --check`: the first records of each corpus, as they would be understood. Nothing is written."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from tarsia.builders.corpora import At, Fault, Raw, find
from tarsia.builders.media import in_memory
from tarsia.builders.reading.encoding import encoding_of
from tarsia.builders.reading.rows import MEDIUM_OF
from tarsia.builders.records import understand
from tarsia.builders.samples import admit
from tarsia.builders.storage import Store, open_store
from tarsia.pipelines.survey import chosen, survey
from tarsia.schemas.corpus import Catalog, Corpus
from tarsia.schemas.errors import Refused, UserError
from tarsia.schemas.identity import canonical, digest, key_of
from tarsia.schemas.model import Model
from tarsia.schemas.sample import Sample

_NO_TEXT = (*(f".{ending}" for ending in MEDIUM_OF), ".tar", ".gz", ".tgz", ".zip", ".parquet", ".arrow")


class Understood(Model):
    """One record: the sample that it would become, or why it would be refused."""

    file: str
    id: str
    sample: Sample | None = None
    notes: tuple[str, ...] = ()  # what is worth knowing of its media, or was done to them
    refused: str | None = None


class Checked(Model):
    """One corpus: what its records are, how many files it has, and its first records; or what is wrong with it.

    `rules`: its questions, its filters and what is done with its media, as the catalog has them. `encodings`: of the
    text files that the records shown are from.
    """

    corpus: str
    record: str = ""
    files: int = 0
    rules: tuple[str, ...] = ()
    encodings: dict[str, str] = {}
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
    shown = dict.fromkeys(one.file for one in first if not one.file.lower().endswith(_NO_TEXT))
    return Checked(
        corpus=corpus.name,
        record=reader.RECORD,
        files=len(files),
        rules=tuple(_rules(corpus)),
        encodings={file: _encoding(source, file) for file in shown},
        first=first,
    )


def _encoding(source: Store, file: str) -> str:
    """What a text file is in, and whether a mark says so: UTF-16 is read by nothing else."""
    encoding = encoding_of(source, file)
    with source.open(file) as raw:
        marked = encoding.startswith("utf-16") or raw.read(3) == b"\xef\xbb\xbf"
    return f"{encoding} with a byte order mark" if marked else encoding


def _rules(corpus: Corpus) -> Iterator[str]:
    """What the catalog asks for beyond reading: `filters: width 224..`."""
    if isinstance(corpus.template, str):
        yield f"template: {corpus.template}"
    elif corpus.template:
        counts = (f"{len(said)} in {language}" for language, said in corpus.template.items())
        yield f"template: questions of its own, {', '.join(counts)}"
    fields = corpus.model_dump(mode="json", include={"filters", "images", "videos"}, exclude_defaults=True)
    for name, rules in fields.items():
        wanted = rules.pop("record", {})
        inner = {**rules, **{f"record.{path}": value for path, value in wanted.items()}}
        yield f"{name}: {', '.join(rule if on is True else f'{rule} {_said(on)}' for rule, on in inner.items())}"


def _said(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)


def _understood(corpus: Corpus, file: str, found: Raw | Fault) -> Understood:
    if isinstance(found, Fault):
        place = f"bytes {found.begin} to {found.end}"
        return Understood(file=file, id=place, refused=f"{found.code}: {found.message}")
    identity = found.id if found.id is not None else "#" + digest(canonical(found.record))[:12]
    key = key_of(corpus.name, identity)
    try:
        draft = understand(found.record, At(corpus, file, key), find(corpus.format))
        sample, _, notes = admit(draft, corpus, key, identity, in_memory(open_store(corpus.root), found.media))
    except Refused as error:
        return Understood(file=file, id=identity, refused=str(error))
    return Understood(file=file, id=identity, sample=sample, notes=tuple(notes))

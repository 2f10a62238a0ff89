"""YAML pages that people write: catalogs, recipes, voices. Every mistake in them is told by its place in the page."""

from collections.abc import Hashable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from tarsia.builders.reading.templates import check_template
from tarsia.schemas.corpus import Catalog, Corpus
from tarsia.schemas.errors import BadCatalog, BadRecipe, BadVoices, UnknownName, UserError
from tarsia.schemas.model import Model
from tarsia.schemas.recipe import SHAPES, Recipe
from tarsia.schemas.voice import Pool, Voice

T = TypeVar("T", bound=Model)


def read_catalog(path: str | Path, base: str | Path | None = None) -> Catalog:
    """The catalog of a YAML file; relative roots are taken from `base`, or else from the file's own folder."""
    page = _page(Path(path), BadCatalog)
    entries, sets = page.get("corpora"), page.get("exclude", {})
    if set(page) - {"exclude"} != {"corpora"} or not isinstance(entries, dict) or not entries:
        raise BadCatalog(f"{path}: a catalog has a key 'corpora', and under it a name for each corpus; else 'exclude'")
    if not isinstance(sets, dict):
        raise BadCatalog(f"{path}: 'exclude' has a name for each evaluation set, and under it what a corpus has")
    if twice := sorted(entries.keys() & sets.keys()):
        raise BadCatalog(f"{path}: '{twice[0]}' is a corpus and an excluded set; give the set another name")
    base = Path(base or Path(path).parent).resolve()
    corpora = tuple(_corpus(name, entry, f"{path}: corpus '{name}'", base) for name, entry in entries.items())
    excluded = tuple(_corpus(name, entry, f"{path}: excluded set '{name}'", base) for name, entry in sets.items())
    _check_sources(corpora, excluded, path)
    return Catalog(corpora=corpora, exclude=excluded)


def _check_sources(corpora: Sequence[Corpus], excluded: Sequence[Corpus], path: str | Path) -> None:
    """What is made of other corpora is made of such as are read."""
    raw = {corpus.name for corpus in corpora if not corpus.of}
    for corpus in (*corpora, *excluded):
        for name in corpus.of:
            if name not in raw:
                raise UnknownName("corpus with a root", name, raw, f"{path}: corpus '{corpus.name}': of")
        if (corpus.format == "answers") != bool(corpus.of) and "." not in corpus.format:
            raise BadCatalog(f"{path}: corpus '{corpus.name}': format answers and 'of' belong together")
    if made := next((corpus.name for corpus in excluded if corpus.of), None):
        raise BadCatalog(f"{path}: excluded set '{made}' is made of other corpora; exclude these")


def _corpus(name: Any, entry: Any, where: str, base: Path) -> Corpus:
    if not isinstance(entry, dict):
        raise BadCatalog(f"{where} needs keys such as format, kind, language, licence and root")
    corpus = _named(Corpus, name, entry, where, BadCatalog)
    check_template(corpus, where)
    if "://" in corpus.root or corpus.of:
        return corpus
    return corpus.model_copy(update={"root": str((base / Path(corpus.root).expanduser()).resolve())})


def read_recipe(name: str) -> Recipe:
    """A recipe that comes with Tarsia by its name, or any by its path; its tokenizer's path starts at its folder."""
    known = {path.stem: path for path in (Path(__file__).parents[1] / "manifests" / "recipes").glob("*.yaml")}
    if not name.endswith((".yaml", ".yml")):
        if name not in known:
            raise UnknownName("recipe", name, known, otherwise=", or the path of a .yaml file")
        return _model(Recipe, _page(known[name], BadRecipe), name, BadRecipe)
    recipe = _model(Recipe, _page(Path(name), BadRecipe), name, BadRecipe)
    if not recipe.context.tokenizer.endswith((".json", ".tiktoken")):
        return recipe
    path = (Path(name).parent / Path(recipe.context.tokenizer).expanduser()).resolve()
    context = recipe.context.model_copy(update={"tokenizer": str(path)})
    return recipe.model_copy(update={"context": context})


def read_voices(name: str) -> Pool:
    """A pool of voices that comes with Tarsia by its name, or any by the path of its YAML file."""
    known = {path.stem: path for path in (Path(__file__).parent / "voices").glob("*.yaml")}
    if not name.endswith((".yaml", ".yml")):
        if name not in known:
            raise UnknownName("pool of voices", name, known, otherwise=", or the path of a .yaml file")
        path = known[name]
    else:
        path = Path(name)
    page = _page(path, BadVoices)
    entries = page.get("voices")
    if not isinstance(entries, dict) or not entries:
        raise BadVoices(f"{path.name}: a pool has a key 'voices', and under it a name for each voice")
    voices = []
    for voice, entry in entries.items():
        if not isinstance(entry, dict):
            raise BadVoices(f"{path.name}: voice '{voice}' needs keys such as engine and language")
        voices.append(_named(Voice, voice, entry, f"{path.name}: voice '{voice}'", BadVoices))
    pool = _named(Pool, path.stem, {**page, "voices": tuple(voices)}, path.name, BadVoices)
    for engine in pool.endpoints:
        if engine not in {voice.engine for voice in pool.voices}:
            raise BadVoices(f"{path.name}: endpoints.{engine}: no voice of this pool has the engine '{engine}'")
    return pool


class _Strict(yaml.SafeLoader):
    """Refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            said = str(key.value)
            if said in seen:
                raise yaml.constructor.ConstructorError(problem=f"'{said}' is given twice", problem_mark=key.start_mark)
            seen.add(said)
        return super().construct_mapping(node, deep)


def _page(path: Path, error: type[UserError]) -> dict[str, Any]:
    try:
        page = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except FileNotFoundError:
        raise error(f"no file {path}") from None
    except (OSError, UnicodeDecodeError) as reason:
        raise error(f"{path}: cannot be read: {reason}") from reason
    except yaml.MarkedYAMLError as reason:
        mark = reason.problem_mark or reason.context_mark
        place = f"{path}, line {mark.line + 1}" if mark else f"{path}"
        raise error(f"{place}: {reason.problem or reason.context}") from reason
    except yaml.YAMLError as reason:
        raise error(f"{path}: not YAML: {reason}") from reason
    if not isinstance(page, dict):
        raise error(f"{path}: expected keys and values")
    return page


def _named(kind: type[T], name: Any, entry: dict[str, Any], where: str, error: type[UserError]) -> T:
    """A model whose name stands in front of its fields, and only there."""
    if "name" in entry:
        raise error(f"{where}: no key 'name'; the name stands in front of the entry")
    return _model(kind, {"name": str(name), **entry}, where, error)


def _model(kind: type[T], fields: dict[str, Any], where: str, error: type[UserError]) -> T:
    try:
        return kind.model_validate(fields)
    except ValidationError as reason:
        raise error("\n".join(_said(kind, where, fault) for fault in reason.errors())) from reason


def _said(kind: type[Model], where: str, fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"] if part not in ("[key]", *SHAPES))
    if fault["type"] == "extra_forbidden":
        known = _fields(kind, fault["loc"][:-1])
        near = get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        return f"{where}: no key '{place}'{hint} Known: {', '.join(known)}"
    return ": ".join(filter(None, (where, place, fault["msg"].removeprefix("Value error, "))))


def _fields(kind: type[Model], path: tuple[Any, ...]) -> list[str]:
    """The keys that may stand at a place of the page; a name stands in front of them."""
    here: Any = kind
    for part in path:
        fields = getattr(here, "model_fields", None)
        if fields is None or part not in fields:
            continue  # the name of a stage: its model was taken one step before
        here = _model_in(fields[part].annotation)
    return sorted(set(getattr(here, "model_fields", {})) - {"name"})


def _model_in(annotation: Any) -> Any:
    """The first model that a type is made of, or none."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)

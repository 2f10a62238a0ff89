"""A run, held against the manifests it claims to have trained on: `tarsia audit LAKE --run LOG`.

A log is what `Account.log` wrote. Its last line says which global batches were handed out to which rank of how many,
and what came of them. From the first follows, position by position, what the trainer must have seen, in every epoch,
over all resumes: nothing twice, nothing left out. From the manifest's own rows follows what those contexts count for;
both must agree to the token. A run that went on after a repair is compared with each manifest in turn: contexts keep
their places, and those that the repair added come last in every epoch that was not over by then. What was skipped
because its bytes were broken was promised and not kept: a finding.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from tarsia.builders.lake import Lake
from tarsia.builders.tables import get_table, plain
from tarsia.manifests.account import FIGURES
from tarsia.manifests.findings import Audit, Book
from tarsia.manifests.places import Group, grouped, microseconds
from tarsia.manifests.refollow import parent_of
from tarsia.manifests.stream import load_manifest, manifest_digest, order_of
from tarsia.schemas.errors import NotThere, UserError
from tarsia.schemas.manifest import Manifest
from tarsia.schemas.model import Model

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_SHOWN = 3  # runs of positions that a finding lists


class Figures(Model):
    """What a run was handed of one corpus, language and modality, and what was promised for the whole run."""

    corpus: str
    kind: str
    language: str
    modality: str
    samples: int
    questions: int
    tokens: int
    microseconds: int
    promised_samples: int
    promised_tokens: int


class Run(Model):
    """One stage of a run, as its log tells it."""

    stage: str
    step: int
    epochs: int
    manifests: int = 1  # under how many it was handed out: one more for each repair in between
    contexts: int  # handed out
    promised: int
    figures: tuple[Figures, ...]


class RunAudit(Audit):
    """What was looked at and what did not agree, with what the runs were handed."""

    runs: tuple[Run, ...]


def audit_runs(lake: Lake, logs: Sequence[str], *, so_far: bool = False) -> RunAudit:
    """Compares logs with the manifests of a lake; several logs of a stage are ranks that logged apart.

    `so_far`: the run still goes on, and what comes after the last batch is no disagreement.
    """
    book, runs = Book(), []
    stages: dict[str, list[dict[str, Any]]] = {}
    for log in logs:
        for stage, line in _last(log).items():
            stages.setdefault(stage, []).append(line)
    for stage, lines in stages.items():
        with book.reading(stage):
            newest = load_manifest(lake.url, stage)
            parts = _parts(lake, newest, [one for line in lines for one in (*line.get("before", ()), line)], book)
            if parts:
                step = max(line["step"] for line in lines)
                runs.append(_compare(lake, parts, step, book, so_far))
    return RunAudit(checks=book.checks, findings=tuple(book.findings), runs=tuple(runs))


class _Part(NamedTuple):
    """What was handed out under one manifest."""

    manifest: Manifest
    lines: list[dict[str, Any]]


def _parts(lake: Lake, newest: Manifest, lines: Sequence[dict[str, Any]], book: Book) -> list[_Part]:
    """Lines by the manifest that they are of, the oldest first: that of the stage, or one that it repaired."""
    stage, mine = f"{newest.model}/{newest.name}", manifest_digest(newest)
    known = [*(newest.repaired.parents if newest.repaired else ()), mine]
    named = {line["manifest"] for line in lines}
    for strange in sorted(named - {digest[:32] for digest in known}):
        book.equal(stage, "manifest", strange, mine[:32])
    if not named <= {digest[:32] for digest in known}:
        return []
    parts = []
    for digest in known:
        told = [line for line in lines if line["manifest"] == digest[:32]]
        if told:
            book.check(stage, True, "manifest")
            parts.append(_Part(newest if digest == mine else parent_of(lake.store, newest, digest), told))
    return parts


def _last(log: str) -> dict[str, dict[str, Any]]:
    """The last line of a log for each stage. A line without an end was cut off with its process."""
    try:
        lines = Path(log).read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise NotThere(f"cannot read the log '{log}': {error.strerror}") from error
    found = {}
    for number, line in enumerate(lines, 1):
        if line.endswith(b"\n"):
            try:
                fields = orjson.loads(line)
                found[fields["stage"]] = fields
            except (orjson.JSONDecodeError, KeyError, TypeError):
                raise UserError(f"{log}, line {number}: not a line that Account.log writes") from None
    if not found:
        raise UserError(f"{log} holds no line; the trainer writes them with Account.log(path, step)")
    return found


def _compare(lake: Lake, parts: Sequence[_Part], step: int, book: Book, so_far: bool) -> Run:
    """A run, part by part and as a whole. A repair adds contexts, which an epoch that was over before it has not."""
    last = parts[-1].manifest
    where, epochs = f"{last.model}/{last.name}", max(line["epochs"] for part in parts for line in part.lines)
    often = np.zeros((epochs, last.contexts), np.int64)
    due = np.ones((epochs, last.contexts), np.bool_)
    sums: dict[Group, Int64s] = {}
    for manifest, lines in parts:
        covered = [part for line in lines for part in line["covered"]]
        handed = _handed(manifest.contexts, epochs, covered, where, book).reshape(epochs, -1)
        promised = due[:, : manifest.contexts] & (often[:, : manifest.contexts] == 0)
        often[:, : manifest.contexts] += handed
        if manifest is not last:
            promised &= handed > 0
            due[often[:, : manifest.contexts].all(axis=1), manifest.contexts :] = False
        for group, figures in _check_figures(lake, manifest, lines, handed, promised, book).items():
            sums[group] = sums.get(group, np.zeros(len(_ALL), np.int64)) + figures
    flat, expected = often.ravel(), due.ravel()
    end = int(np.flatnonzero(flat)[-1]) + 1 if flat.any() else 0
    part = slice(end if so_far else None)
    _check_once(flat[part], expected[part], last.contexts, where, book)
    return Run(
        stage=where,
        step=step,
        epochs=epochs,
        manifests=len(parts),
        contexts=int(flat.sum()),
        promised=int(due.sum()),
        figures=tuple(
            Figures.model_validate({**group._asdict(), **dict(zip(_ALL, figures.tolist(), strict=True))})
            for group, figures in sums.items()
        ),
    )


def _check_figures(
    lake: Lake, manifest: Manifest, lines: Sequence[dict[str, Any]], handed: Int64s, promised: Bools, book: Book
) -> dict[Group, Int64s]:
    """What a part of a run counted, beside the manifest's rows; the figures due of each group, and promised."""
    where, order = f"{manifest.model}/{manifest.name}", order_of(manifest)
    seen, wanted = np.zeros((2, manifest.contexts), np.int64)
    for epoch in range(len(handed)):
        contexts = order.epoch(epoch)
        np.add.at(seen, contexts, handed[epoch])
        np.add.at(wanted, contexts, promised[epoch])
    book.equal(where, "contexts", sum(line["contexts"] for line in lines), int(handed.sum()))
    columns = ("context", "slot", "key", *Group._fields, "questions", "tokens", "seconds")
    table = get_table(lake.store, manifest.tables["samples"], columns, verify=True).combine_chunks()
    rows = {name: table[name].chunk(0) for name in columns} if len(table) else None
    realised = _sums(line["figures"] for line in lines)
    missing = [one for line in lines for one in line["missing"]]
    found: dict[Group, Int64s] = {}
    if rows is not None:
        numbers, groups = grouped(rows)
        figures = np.stack(
            [
                np.ones(len(numbers), np.int64),
                *(plain(rows[name]).astype(np.int64) for name in ("questions", "tokens")),
                microseconds(rows["seconds"]),
            ]
        )
        contexts = plain(rows["context"])
        weights = seen[contexts]
        for one in missing:
            weights[_row(one, contexts, rows, where, book)] -= 1
        for number, group in enumerate(groups):
            mine = numbers == number
            due = (figures[:, mine] * weights[mine]).sum(axis=1)
            for name, expected, counted in zip(FIGURES, due.tolist(), realised.pop(group, [0] * 4), strict=True):
                book.equal(where, f"{name} of {', '.join(group)}", counted, expected)
            whole = (figures[:3:2, mine] * wanted[contexts[mine]]).sum(axis=1)
            found[group] = np.concatenate([due, whole])
    for group in realised:
        book.check(where, False, f"the run had samples of {', '.join(group)}; the manifest has none")
    for one in missing:
        lying = f"{one['path']} at byte {one['offset']}"
        said = f"sample {one['key']} of context {one['context']} was missing in epoch {one['epoch']}: {lying}"
        book.check(where, False, said)
    return found


_ALL = (*FIGURES, "promised_samples", "promised_tokens")


def _sums(many: Iterable[Sequence[dict[str, Any]]]) -> dict[Group, list[int]]:
    sums: dict[Group, list[int]] = {}
    for figures in many:
        for row in figures:
            group = sums.setdefault(Group(*(row[name] for name in Group._fields)), [0] * 4)
            for which, name in enumerate(FIGURES):
                group[which] += row[name]
    return sums


def _row(one: dict[str, Any], contexts: Any, rows: dict[str, Any], where: str, book: Book) -> list[int]:
    """The row of a missing sample, in a list that is empty where the manifest has no such sample."""
    row = int(np.searchsorted(contexts, one["context"])) + one["slot"]
    there = row < len(contexts) and contexts[row] == one["context"] and rows["key"][row].as_py() == one["key"]
    book.check(where, there, f"missing sample {one['key']} is not in slot {one['slot']} of context {one['context']}")
    return [row] if there else []


def _handed(contexts: int, epochs: int, parts: Sequence[dict[str, Any]], where: str, book: Book) -> Int64s:
    """How often each position of each epoch was handed out, epoch after epoch."""
    change = np.zeros(epochs * contexts + 1, np.int64)
    for part in parts:
        edges = sorted(tuple(edge) for edge in part["edges"])
        levels = accumulate(by for _, by in edges)
        for (begin, _), (end, _), level in zip(edges, edges[1:], levels, strict=False):
            inside = 0 <= begin <= end <= contexts and 0 <= part["epoch"] < epochs
            book.check(where, inside, f"positions {begin} to {end - 1} of epoch {part['epoch']} do not exist")
            if inside and level:
                begins = np.arange(begin, end, part["batch"])
                sizes = np.minimum(begins + part["batch"], end) - begins
                begins += part["epoch"] * contexts
                for rank in part["ranks"]:
                    np.add.at(change, begins + sizes * rank // part["world"], level)
                    np.add.at(change, begins + sizes * (rank + 1) // part["world"], -level)
    return np.cumsum(change)[:-1]


def _check_once(often: Int64s, due: Bools, contexts: int, where: str, book: Book) -> None:
    """Every position that is due was handed out, and none twice."""
    for wrong, said in (((often == 0) & due, "never handed out"), (often > 1, "handed out more than once")):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], wrong.astype(np.int8), [0]])))
        runs = [
            f"{begin % contexts} to {(end - 1) % contexts} of epoch {begin // contexts}"
            for begin, end in edges[: 2 * _SHOWN].reshape(-1, 2).tolist()
        ]
        more = f" and {len(edges) // 2 - _SHOWN} more runs" if len(edges) > 2 * _SHOWN else ""
        book.check(where, not wrong.any(), f"{int(wrong.sum())} positions {said}: {'; '.join(runs)}{more}")

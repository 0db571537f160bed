"""`lume`: LUME (Ramakrishna et al. 2025, arXiv 2502.15097), the data of SemEval-2025 Task 4.

Task1 synthetic stories, Task2 synthetic biographies with personal data, Task3 real biographies. An id is a document id
and a kind: sc1 (complete the text: regurgitation) or qa<digit> (answer a question: knowledge).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from simu.data.comparing import Overlap
from simu.data.rows import SUFFIXES, Row, file_in, read_file, read_parquet, read_rows, read_text
from simu.fields import Count, Place, between, component
from simu.store.hub import check_data_set, unreachable_data_set
from simu.types import Example, Splits, Template, UserError, require

REPOSITORY = "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public"
HUB_FOLDS = ("train", "validation")
FOLDS = (*HUB_FOLDS, "heldout")
TASKS = ("Task1", "Task2", "Task3")
_ID = re.compile(r"(.+)(sc\d|qa\d)", re.DOTALL)

Rows = tuple[Example, ...]


def document_id(row_id: str) -> str:
    """'36307590qa0' → '36307590'. Task1's document ids carry literal double quotes, which belong to them."""
    return _split(row_id)[0]


def kind(row_id: str) -> str:
    """'36307590qa0' → 'qa0': sc1, or qa0 … qa4 (in Task2: birth date, SSN, phone, e-mail, address)."""
    return _split(row_id)[1]


def _split(row_id: str) -> tuple[str, str]:
    match = _ID.fullmatch(row_id)
    if match is None:
        raise UserError(
            f"{row_id!r} is no LUME id: a document id followed by sc1 or qa<digit> is; evaluator=lume "
            "scores data=lume or rows with such ids"
        )
    return match[1], match[2]


@component
class Lume:
    """Forget and retain rows of one fold, and a membership set.

    Evaluation splits: forget, retain, mia_member and mia_nonmember (whole documents as answers, the prompt is empty).
    The two are scored without a separator, as the documents begin. Raises UserError for a hub that cannot be reached,
    a missing file and a bad row, each by name.
    """

    name: str = "lume"
    path: Place | None = None
    """A folder with forget.jsonl and retain.jsonl, folds/ and mia/; or a copy of the hub's repository (data/*.parquet
    and mia_data/); None: the hub, which serves the folds train and validation only."""
    forget: Literal["all", "Task1", "Task2", "Task3"] = "all"
    """Which task's rows of the fold are forgotten; retain rows are those of every task."""
    fold: Literal["train", "validation", "heldout", "all"] = "heldout"
    """heldout is the paper's (1094 forget and 1052 retain rows)."""
    forget_offset: Annotated[int, between(0, 2)] = 0
    """Folds before `fold` in train, validation, heldout: a search takes the rows of another fold than the shown run."""
    forget_rows: Count | None = None
    """A subset of about N rows: whole documents, in the fold's own proportions of tasks."""
    retain_rows: Count | None = None
    """As forget_rows."""
    evaluation_rows: Count | None = None
    """The first N rows of every evaluation split only."""
    seam: Literal["space", "official"] = "space"
    """Between input and output: one space, or nothing as the official evaluator has it."""
    mia_set: Literal["public", "fold", "files"] = "fold"
    """public: 150 + 150 documents, members from the train fold. fold: the Task3 documents to forget, against as many of
    other folds, matched by length. files: given by the user."""
    mia_member_file: Place | None = None
    """JSON Lines with the field `document`; for mia_set=files."""
    mia_nonmember_file: Place | None = None
    overlap: Overlap = "refuse"

    def __post_init__(self) -> None:
        last = FOLDS.index(self.fold) if self.fold in FOLDS else 0
        require(
            0 <= self.forget_offset <= last,
            "forget_offset",
            self.forget_offset,
            f"0 to {last} with fold={self.fold}: folds before it in {', '.join(FOLDS)}",
        )
        for field in ("mia_member_file", "mia_nonmember_file"):
            value = getattr(self, field)
            require(
                (value is not None) == (self.mia_set == "files"),
                field,
                value,
                "a file with mia_set=files, and null with any other",
            )
        require(
            self.mia_set != "fold" or self.fold != "all",
            "mia_set",
            self.mia_set,
            "'public' or 'files' with fold=all, which leaves no other fold for non-members",
        )
        require(
            self.mia_set != "fold" or self.forget in ("all", "Task3"),
            "mia_set",
            self.mia_set,
            f"'public' or 'files' with forget={self.forget}: the fold set is made of Task3 documents",
        )

    def __call__(self) -> Splits:
        folder = fetch() if self.path is None else Path(self.path)
        whole = {side: read_side(folder, side) for side in ("forget", "retain")}
        name = FOLDS[FOLDS.index(self.fold) - self.forget_offset] if self.forget_offset else self.fold
        fold = {side: in_fold(folder, side, name, rows) for side, rows in whole.items()}
        to_forget = tuple(r for r in fold["forget"] if self.forget in ("all", r.group))
        forget, retain = subset(to_forget, self.forget_rows), subset(fold["retain"], self.retain_rows)
        if self.mia_set == "fold":
            inside = {r.id for rows in fold.values() for r in rows}
            outside = [r for rows in whole.values() for r in rows if r.id not in inside]
            member, nonmember = matched_documents(forget, outside)
        else:
            member, nonmember = (documents(path) for path in self._mia_files(folder))
        evaluation = {
            "forget": forget,
            "retain": retain,
            "mia_member": self._as_rows(member, "mia_member"),
            "mia_nonmember": self._as_rows(nonmember, "mia_nonmember"),
        }
        return Splits(
            name=self.name,
            forget=forget,
            retain=retain,
            evaluation={split: rows[: self.evaluation_rows] for split, rows in evaluation.items()},
            template=self.template(),
        )

    def template(self) -> Template:
        """Raw input, no tags; the seam decides what stands before the output."""
        return Template(separator=" " if self.seam == "space" else "")

    def _as_rows(self, named: Sequence[tuple[str, str]], split: str) -> Rows:
        """Whole documents; `group` says which membership set they are of."""
        return tuple(Example(id=f"{split}/{n}", prompt="", answer=text, group=self.mia_set) for n, text in named)

    def _mia_files(self, folder: Path) -> tuple[Path, Path]:
        if self.mia_member_file is not None and self.mia_nonmember_file is not None:
            return Path(self.mia_member_file), Path(self.mia_nonmember_file)
        inner = "mia_data" if (folder / "mia_data").is_dir() else "mia"
        return file_in(folder, f"{inner}/member.jsonl"), file_in(folder, f"{inner}/nonmember.jsonl")


def fetch() -> Path:
    """The hub's repository in the local cache. Its layout (data/<side>_<fold>-*.parquet, mia_data/*.jsonl) is the one
    that the task's organisers document; the set may ask for a token."""
    from huggingface_hub import snapshot_download

    check_data_set(REPOSITORY)
    try:
        return Path(snapshot_download(REPOSITORY, repo_type="dataset", allow_patterns=["data/*", "mia_data/*"]))
    except Exception as error:  # network, gating, cache: the client raises a dozen kinds
        raise unreachable_data_set(REPOSITORY, error) from error


def read_side(folder: Path, side: str) -> Rows:
    """All rows of one side, every fold. In the hub's layout a row's fold is known from its file alone."""
    if _is_hub_copy(folder):
        return tuple(row for fold in HUB_FOLDS for row in _read_parquet(folder, side, fold))
    return examples(read_rows(folder, side))


def in_fold(folder: Path, side: str, fold: str, rows: Rows) -> Rows:
    """The rows whose document is in the fold, in their own order."""
    if fold == "all":
        return rows
    if _is_hub_copy(folder):
        if fold not in HUB_FOLDS:
            raise UserError(
                f"data.fold={fold}: the hub's copy has the folds {' and '.join(HUB_FOLDS)} only; pass "
                "data.path=/path/to/folder with forget.jsonl, retain.jsonl and folds/"
            )
        return _read_parquet(folder, side, fold)
    path = file_in(folder, f"folds/{side}_{fold}.txt")
    wanted = {line for line in read_text(path).splitlines() if line}
    unknown = wanted - {document_id(r.id) for r in rows}
    if unknown or not wanted:
        raise UserError(
            f"{path}: {'no document ids' if not wanted else 'no document ' + min(unknown) + ' in ' + side + '.jsonl'}"
        )
    return tuple(r for r in rows if document_id(r.id) in wanted)


def _is_hub_copy(folder: Path) -> bool:
    return not any((folder / f"forget{suffix}").exists() for suffix in SUFFIXES) and any(
        folder.glob("data/forget_*.parquet")
    )


def _read_parquet(folder: Path, side: str, fold: str) -> Rows:
    files = sorted(folder.glob(f"data/{side}_{fold}-*.parquet"))
    if not files:
        raise UserError(f"data.path={folder}: no data/{side}_{fold}-*.parquet there")
    return examples([row for f in files for row in read_parquet(f)])


def examples(rows: Sequence[Row]) -> Rows:
    """LUME's own ids; `group` is the task."""
    made: dict[str, Example] = {}
    for row in rows:
        row_id, task = row.text("id"), row.text("task")
        if _ID.fullmatch(row_id) is None:
            raise UserError(f"{row.where}: field 'id' must end with sc1 or qa<digit>, is {row_id!r}")
        if task not in TASKS:
            raise UserError(f"{row.where}: field 'task' must be one of {', '.join(TASKS)}, is {task!r}")
        if row_id in made:
            raise UserError(f"{row.where}: field 'id' {row_id!r} stands in an earlier row, too")
        made[row_id] = Example(id=row_id, prompt=row.text("input"), answer=row.text("output"), group=task)
    return tuple(made.values())


def subset(rows: Rows, count: int | None) -> Rows:
    """Whole documents until `count` rows are reached, spread evenly over the tasks: each prefix keeps their shares."""
    if count is None or count >= len(rows):
        return rows
    documents_of: dict[str, dict[str, list[Example]]] = {}
    for row in rows:
        documents_of.setdefault(row.group, {}).setdefault(document_id(row.id), []).append(row)
    placed = [
        ((k + 0.5) / len(of_task), task, of_document)
        for task, of_task in documents_of.items()
        for k, of_document in enumerate(of_task.values())
    ]
    chosen: list[Example] = []
    for _, _, of_document in sorted(placed, key=lambda p: p[:2]):
        if len(chosen) >= count:
            break
        chosen += of_document
    return tuple(chosen)


def documents(path: Path) -> list[tuple[str, str]]:
    """(id, document) of a membership file; the row number where it gives no id. An id may stand there once only:
    by it a row finds its score under another model."""
    found: dict[str, str] = {}
    for i, row in enumerate(read_file(path)):
        given = row.cells.get("id")
        name = str(i if given is None else given)
        if name in found:
            raise UserError(f"{row.where}: field 'id' {name!r} stands in an earlier row, too")
        found[name] = row.text("document")
    return list(found.items())


def document_text(row: Example) -> str:
    """The whole text of an sc1 row: the public member documents are exactly this."""
    return f"{row.prompt} {row.answer}"


def matched_documents(
    members: Sequence[Example], others: Sequence[Example]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Task3's documents among `members`, and as many among `others`, paired so that the summed difference in length
    (characters) is the least possible: mean NLL depends on length, and membership should not be read off it."""
    from scipy.optimize import linear_sum_assignment

    inside, outside = (
        [(document_id(r.id), document_text(r)) for r in rows if r.group == "Task3" and kind(r.id).startswith("sc")]
        for rows in (members, others)
    )
    cost = [[abs(len(a) - len(b)) for _, b in outside] for _, a in inside]
    if not inside or len(outside) < len(inside):
        raise UserError(
            f"data.mia_set=fold: {len(inside)} Task3 documents to forget and {len(outside)} of other folds "
            "to match them; take mia_set=public or mia_set=files"
        )
    _, partner = linear_sum_assignment(cost)
    return inside, [outside[j] for j in partner]

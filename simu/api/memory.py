"""Models and rows at hand: `unlearn` and `evaluate`, on the stages that runs are made of, without a cache."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from simu.api.overrides import words
from simu.cli.main import composed
from simu.cli.messages import explain
from simu.config import RunConfig, build_run
from simu.data.comparing import check_apart
from simu.data.own import Own
from simu.data.rows import Row
from simu.inference.slots import context_limit
from simu.metrics.metric import row_metrics
from simu.models.anatomy import anatomy
from simu.models.chat import end_with_turn, laid_out
from simu.models.folder import check_decoder
from simu.models.forward import device_of
from simu.models.tokenizers import check_tokenizer
from simu.stages import alternatives, attribution, evaluation, mask, unlearning
from simu.stages.artifact import Artifact, Context, Setup
from simu.store.cache import Cache
from simu.store.files import read_json_lines
from simu.tracking import Silent
from simu.training import Training
from simu.types import Layout, Precision, Scores, Splits, Template, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Rows = Iterable[Mapping[str, object]]
"""Dicts, a `datasets.Dataset`, or a `pandas.DataFrame`; columns as docs/data.md has them: question and answer, prompt
and completion, input and output, messages, or text."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What `unlearn` gives back."""

    model: PreTrainedModel
    """Plain Hugging Face: the model that was given, unlearned, in a copy of its own."""
    tokenizer: PreTrainedTokenizerBase
    mask: Tensor | None
    """bool [L, units] (float for a soft mask): which neurons trained; None: the method selects none."""
    scores: Tensor | None
    """float32 [L, units]: the attribution of the forget rows; None: the mask reads none."""
    completeness: Tensor | None
    """float64 [L]: how far the scores of each layer are from their sum, relative; None: not defined."""
    log: list[dict[str, Any]] = field(repr=False)
    """A record a step: losses, gradient norm, rate."""
    warnings: list[str]


def unlearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    forget: Rows,
    retain: Rows = (),
    *,
    method: str = "simu",
    template: Template | str = "auto",
    seed: int = 0,
    **overrides: object,
) -> Result:
    """Make a model forget some rows and keep others (arXiv 2510.07822; method: fo_graddiff | so_graddiff | simu …).

    `model` must know the rows already; it stays as it is, the result holds a copy. `template`: `chat` (the tokenizer's
    own), `auto` (that where there is one) or a `simu.Template`. `overrides` are the command line's keys, with a dot or
    two underscores: `mask="random", optimizer__lr=1e-4`. Runs where the model is, in its dtype.

    Raises UserError, one line, for rows, a model, a tokenizer or a setting that cannot be.

    >>> done = simu.unlearn(model, tokenizer, forget, retain, training__epochs=1)  # doctest: +SKIP
    >>> done.model.save_pretrained("forgotten")  # doctest: +SKIP
    """
    cfg = config_of(model, [f"method={method}", f"seed={seed}"], overrides)
    splits = splits_of({"forget": forget, "retain": retain})
    if cfg.objective.retain.reads_rows and not splits.retain:
        raise UserError("retain: no rows, and the objective reads them; allowed are some, or objective__retain='none'")
    subject = Subject(model, tokenizer, template, splits, cfg)
    scores: dict[str, Artifact[Scores]] = {}
    chosen = None
    if cfg.selection.reads_mask:
        scores = {side: subject.scored(side) for side in sorted(cfg.mask.needs)}
        chosen = subject.masked(scores)
    done, log, warnings = subject.unlearned(chosen)
    found = scores["forget"].load() if "forget" in scores else None
    return Result(
        model=done,
        tokenizer=tokenizer,
        mask=chosen,
        scores=found.values if found else None,
        completeness=found.completeness if found else None,
        log=log,
        warnings=warnings,
    )


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows | Mapping[str, Rows] | str,
    *,
    template: Template | str = "auto",
    **overrides: object,
) -> dict[str, float]:
    """Score a model: the keys and values of a run's metrics.json ('forget/rouge_l_recall' …).

    `rows`: by split (`{"forget": …, "retain": …, "holdout": …}`), one set of rows (scored as `forget`), or the name of
    a data set (`"tofu"`, with `data__path=FOLDER` where it is not to come from the hub). `overrides` as of `unlearn`:
    `evaluator__max_new_tokens=50`. Raises UserError.

    >>> simu.evaluate(model, tokenizer, {"forget": forget})["forget/rouge_l_recall"]  # doctest: +SKIP
    """
    if isinstance(rows, str):
        cfg = config_of(model, [f"data={rows}"], overrides, data=rows)
        splits = cfg.data()
    else:
        cfg = config_of(model, [], overrides)
        by_split = cast(Mapping[str, Rows], rows) if is_by_split(rows) else {"forget": cast(Rows, rows)}
        splits = splits_of(by_split)
    cfg.evaluator.check()
    return dict(Subject(model, tokenizer, template, splits, cfg).evaluated())


def config_of(
    model: PreTrainedModel, first: Sequence[str], overrides: Mapping[str, object], data: str = "rows"
) -> RunConfig:
    """The run that `overrides` describe, for a model at hand. Raises UserError for what the command line refuses."""
    taken = {"model", "data", "device", "tracker", "stages", "cache_dir", "dry_run", "save_model"}
    said = words(overrides, taken - ({"data"} if data != "rows" else set()))
    typed = [f"precision.weights={str(model.dtype).removeprefix('torch.')}", "precision.portable=false", *said]
    try:
        base = ["model=hub", "model.path=.", "tracker=none", *([] if data != "rows" else ["data=rows"]), *first]
        return build_run(composed([*base, *typed]))
    except Exception as error:
        if (line := explain(error, typed)) is None:
            raise
        raise UserError(line) from error


def is_by_split(rows: object) -> bool:
    """Whether rows come by split: a mapping, and no table of columns."""
    return isinstance(rows, Mapping) and not hasattr(rows, "column_names")


def splits_of(given: Mapping[str, Rows]) -> Splits:
    """Rows at hand as a data set. Raises UserError for rows as files would: by split and number."""
    read = {split: read_rows(split, rows) for split, rows in given.items()}
    if not read.get("forget"):
        raise UserError("forget: no rows; allowed is at least one")
    splits = Own().of({split: rows for split, rows in read.items() if rows})
    check_apart(splits, "rows", False)
    return splits


def read_rows(split: str, rows: Rows) -> list[Row]:
    records = rows.to_dict("records") if hasattr(rows, "to_dict") and hasattr(rows, "iloc") else rows  # a DataFrame
    found = []
    for number, cells in enumerate(records, 1):
        if not isinstance(cells, Mapping):
            raise UserError(f"{split}, row {number}: is {type(cells).__name__}; allowed is a dict of columns")
        found.append(Row(f"{split}, row {number}", dict(cells)))
    return found


class Subject:
    """A model with its rows, as stages take them."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: Template | str,
        splits: Splits,
        cfg: RunConfig,
    ) -> None:
        check_decoder(model.config, "model")
        check_tokenizer(tokenizer, model.config, "tokenizer")
        if not isinstance(template, Template) and template not in ("auto", "chat"):
            raise UserError(f"template={template!r}: allowed are 'auto', 'chat' and a simu.Template")
        asked = copy.deepcopy(tokenizer)
        layout = splits.template or laid_out(cast(Layout, template), asked, "tokenizer")
        if isinstance(template, str):
            end_with_turn(asked)
        self.cfg, self.splits = cfg, splits
        self.target: Artifact[Any] = Artifact("target", "", None, lambda: (copy.deepcopy(model).eval(), asked))
        device: torch.device = device_of(model)
        limit = context_limit(model) or cfg.model.max_length
        self.setup = Setup(
            template=layout,
            max_length=min(cfg.model.max_length, limit),
            precision=cast(Precision, cfg.precision),
            device=device.type,
        )
        self.context = Context(cache=Cache(Path(cfg.cache_dir)), device=device, group=None, tracker=Silent())
        self.shape = anatomy(model).shape(cfg.attribution.unit)

    def scored(self, side: str) -> Artifact[Scores]:
        rows = self.splits.forget
        other = attribution.sample(self.splits.retain, len(rows), self.cfg.seed)
        if side == "retain":
            rows, other = other, rows
        if not rows:
            raise UserError(f"{side}: no rows, and the mask reads their scores; allowed are some, or another mask")
        inputs = attribution.Inputs(
            target=self.target,
            attribution=self.cfg.attribution,
            rows=rows,
            other=other if self.cfg.attribution.reads_other else None,
            setup=self.setup,
        )
        found = self._done(attribution, inputs)
        return Artifact("attribution", "", None, lambda: found)

    def masked(self, scores: Mapping[str, Artifact[Scores]]) -> Tensor:
        inputs = mask.Inputs(
            mask=self.cfg.mask,
            forget=scores.get("forget"),
            retain=scores.get("retain"),
            unit=self.cfg.attribution.unit,
            shape=self.shape,
        )
        return cast("Tensor", self._done(mask, inputs))

    def unlearned(self, chosen: Tensor | None) -> tuple[PreTrainedModel, list[dict[str, Any]], list[str]]:
        """The unlearned copy, its log and its warnings."""
        cfg = self.cfg
        other = alternatives.wanted(cfg.objective, self.target, self.splits.forget, self.setup, cfg.seed)
        answers = other and self._done(alternatives, other)
        inputs = unlearning.Inputs(
            target=self.target,
            mask=chosen,
            unit=cfg.attribution.unit if cfg.selection.reads_mask else "row",
            objective=cfg.objective,
            optimizer=cfg.optimizer,
            perturbation=cfg.perturbation,
            selection=cfg.selection,
            training=cast(Training, cfg.training),
            forget=self.splits.forget,
            retain=self.splits.retain,
            alternatives=Artifact("alternatives", "", None, lambda: answers) if answers else None,
            setup=self.setup,
            seed=cfg.seed,
        )
        with tempfile.TemporaryDirectory(prefix="simu-") as scratch:
            folder = Path(scratch)
            unlearning.compute(inputs, folder, self.context)
            model, _ = unlearning.load(inputs, folder, self.context)
            log = list(read_json_lines(folder / unlearning.LOG))
            return model, log, list(unlearning.warnings(folder))

    def evaluated(self) -> Mapping[str, float]:
        inputs = evaluation.Inputs(
            model=self.target,
            evaluator=self.cfg.evaluator,
            data=self.splits.name,
            rows=self.splits.evaluation,
            metrics=row_metrics(),
            reference=None,
            setup=self.setup,
        )
        return cast(Mapping[str, float], self._done(evaluation, inputs).metrics)

    def _done(self, stage: Any, inputs: Any) -> Any:
        with tempfile.TemporaryDirectory(prefix="simu-") as scratch:
            stage.compute(inputs, Path(scratch), self.context)
            return stage.load(inputs, Path(scratch), self.context)

"""The stages of a run: target model, attribution, mask, unlearning, evaluation.

Each stage says in `inputs` what its result is a function of; the cache keeps it under the digest of that, so sweeps
share all common work and a killed run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from simu.config import RunConfig
from simu.data import digest as digest_rows
from simu.data.batches import feed
from simu.data.batching import Encoded, encode_examples
from simu.data.refusals import refusals
from simu.inference.likelihood import score
from simu.losses.retain.finetune import Finetune
from simu.masks import critical_neurons, mask_report
from simu.models.anatomy import anatomy
from simu.models.load import Loaded, load_folder, save_folder, texts_of
from simu.selection.core import apply_tensors, select_parameters
from simu.sharding import join, shard
from simu.store.cache import CHECKPOINT, Cache, Entry
from simu.store.files import digest, write_atomic, write_json
from simu.tracking import Run, Silent
from simu.training import Training, train
from simu.types import Evaluation, Example, Splits, Template, UserError

log = logging.getLogger("simu")

VERSION = 1
"""Raised when a stage's result changes for equal inputs, so that older cache entries are not taken."""


@dataclass
class Stages:
    """The stages of one run. Each is computed when first asked for, and asks for those before it."""

    cfg: RunConfig
    folder: Path
    tracker: Run = field(default_factory=Silent)
    done: dict[str, Any] = field(default_factory=dict)
    """Of each stage done: digest, seconds, cached. For provenance.json."""
    counts: dict[str, Any] | None = None
    """Of the mask: neurons in all, selected, by layer."""
    taught: dict[bool, Entry] = field(default_factory=dict)
    """Targets fine-tuned here: of all rows (False), of the retain rows alone (True)."""

    # ---- what every stage reads

    @cached_property
    def splits(self) -> Splits:
        splits: Splits = self.cfg.data()
        for name, rows in (("forget", splits.forget), ("retain", splits.retain)):
            if not rows:
                raise UserError(f"data={self.cfg.data.name}: the {name} set is empty; allowed is at least one row")
        return splits

    @property
    def template(self) -> Template:
        return self.splits.template or self.cfg.model.template

    @cached_property
    def group(self) -> PartialState | None:
        """The process group that a launcher has set up; None: this process is alone."""
        return join()

    @property
    def main(self) -> bool:
        """Whether this process writes what all have computed."""
        return self.group is None or bool(self.group.is_main_process)

    @cached_property
    def device(self) -> torch.device:
        torch.backends.cuda.matmul.allow_tf32 = self.cfg.precision.tf32
        if self.group and self.cfg.device == "auto":
            return torch.device(self.group.device)
        return self.cfg.torch_device()

    def encode(self, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Example]) -> list[Encoded]:
        return encode_examples(tokenizer, self.template, rows, self.cfg.model.max_length)

    def stage(
        self, name: str, inputs: Mapping[str, Any], compute: Callable[[Path], None], label: str, together: bool = False
    ) -> Entry:
        """The cache's entry, said in a line on the terminal and noted for provenance.json.

        In a process group the main process alone looks after the cache; the others join in what is done `together`.
        """
        common = {"version": VERSION, "precision": asdict(self.cfg.precision), "device": self.device.type}
        inputs = common | dict(inputs)
        cache = Cache(Path(self.cfg.cache_dir))
        entry = staged(cache, name, inputs, compute, together) if self.group else cache.stage(name, inputs, compute)
        how = f"from the cache ({entry.digest})" if entry.cached else f"{entry.seconds:.1f} s"
        log.info("%-24s %s", label, how)
        self.done[label] = {"digest": entry.digest, "seconds": round(entry.seconds, 3), "cached": entry.cached}
        return entry

    # ---- target: a model that has memorised forget and retain rows

    def target_rows(self, retain_only: bool = False) -> list[Example]:
        """What a target is taught; a model without pre-training also learns the background rows."""
        background = self.splits.background if self.cfg.model.learns_background else ()
        return [*(() if retain_only else self.splits.forget), *self.splits.retain, *background]

    def fine_tuned(self, retain_only: bool = False) -> Entry:
        """A target taught here: the model's base, fine-tuned until it has memorised its rows."""
        if retain_only not in self.taught:
            self.taught[retain_only] = self._fine_tuned(retain_only)
        return self.taught[retain_only]

    def _fine_tuned(self, retain_only: bool) -> Entry:
        rows = self.target_rows(retain_only)
        inputs = {
            "model": self.cfg.model.identity(self.cfg.data.name),
            "target": asdict(self.cfg.model.target),
            "template": asdict(self.template),
            "max_length": self.cfg.model.max_length,
            "rows": digest_rows(rows),
            "vocabulary": digest_rows(self.target_rows()),
            "seed": self.cfg.seed,
        }
        label = "target (retain only)" if retain_only else "target"
        return self.stage("target", inputs, lambda folder: self._fine_tune(folder, rows), label, together=True)

    def _fine_tune(self, folder: Path, rows: list[Example]) -> None:
        settings = self.cfg.model.target
        model, tokenizer = self.untaught()
        shard(model.to(self.device))  # type: ignore[arg-type]
        encoded = self.encode(tokenizer, rows)
        shares: list[float] = []

        def memorised(epoch: int) -> bool:
            if epoch % settings.check_every:
                return False
            scores = score(model, tokenizer, encoded, max_batch_tokens=16384)
            shares.append(sum(bool(s.hit.all()) for s in scores) / len(scores))
            log.info("%-24s epoch %d: %.1f %% of %d rows memorised", "target", epoch, 100 * shares[-1], len(encoded))
            return shares[-1] >= settings.memorised

        loop = Training(epochs=settings.max_epochs, batch_size=settings.batch_size, warmup=0.02)
        selection = select_parameters(model, None, scope="all", master=self.cfg.precision.master)
        optimizer = torch.optim.AdamW(selection.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        result = train(
            model,
            selection,
            optimizer,
            Finetune(),
            encoded,
            settings=loop,
            pad_id=_pad(tokenizer),
            seed=self.cfg.seed,
            checkpoint=folder / CHECKPOINT / "training.pt",
            stop=memorised,
            label="target: fine-tuning",
        )
        if self.group:  # sharded weights are gathered; the main process puts them into a model of its own
            model, _ = self.untaught()
            apply_tensors(model, selection.trained_tensors())
        else:
            selection.merge()
        if not result.stopped:
            log.warning(
                "target: %.1f %% of rows memorised after model.target.max_epochs=%d, not the %.1f %% asked for",
                100 * (shares or [0.0])[-1],
                settings.max_epochs,
                100 * settings.memorised,
            )
        if self.main:
            save_folder(model, tokenizer, folder / "model")
            write_json(folder / "target.json", {"rows": len(rows), "steps": result.steps, "memorised": shares[-1:]})

    def untaught(self) -> Loaded:
        """The model before the target stage: random weights and a tokenizer of the rows, or the base model."""
        texts = texts_of([(e.prompt, e.answer) for e in self.target_rows()], self.template)
        loaded: Loaded = self.cfg.model.load(self.cfg.data.name, texts, self.cfg.seed, self.cfg.precision.dtype)
        return loaded

    @cached_property
    def target(self) -> dict[str, Any]:
        """What identifies the target's weights."""
        if self.cfg.model.published(self.cfg.data.name) is not None:
            return {"published": self.cfg.model.identity(self.cfg.data.name)}
        return {"fine_tuned": self.fine_tuned().digest}

    def say_target(self) -> None:
        if "published" in self.target:
            log.info("%-24s %s, as published", "target", self.cfg.model.source(self.cfg.data.name))

    def load_target(self, retain_only: bool = False) -> Loaded:
        """A fresh copy of the target, on the device."""
        if "published" in self.target and not retain_only:
            model, tokenizer = self.cfg.model.load(self.cfg.data.name, (), self.cfg.seed, self.cfg.precision.dtype)
        else:
            model, tokenizer = load_folder(self.fine_tuned(retain_only).folder / "model", self.cfg.precision.dtype)
        return model.to(self.device), tokenizer

    # ---- attribution: how much each neuron supports the forgotten (and the retained) answers

    def attribution_rows(self, side: str) -> list[Example]:
        """The forget set, or a seeded sample of the retain set of the same size."""
        if side == "forget":
            return list(self.splits.forget)
        generator = torch.Generator().manual_seed(self.cfg.seed)
        order = torch.randperm(len(self.splits.retain), generator=generator)
        return [self.splits.retain[i] for i in order[: len(self.splits.forget)].tolist()]

    @cached_property
    def scores(self) -> dict[str, Tensor]:
        """float32 [L, D] for each side that the mask reads."""
        return {side: self._attribution(side) for side in sorted(self.cfg.mask.needs)}

    def _attribution(self, side: str) -> Tensor:
        rows = self.attribution_rows(side)
        inputs = {
            "target": self.target,
            "attribution": _fields(self.cfg.attribution),
            "rows": digest_rows(rows),
            "template": asdict(self.template),
            "max_length": self.cfg.model.max_length,
        }

        def compute(folder: Path) -> None:
            model, tokenizer = self.load_target()
            attribution = self.cfg.attribution
            batches, _ = feed(
                tokenizer,
                self.template,
                rows,
                batch_size=attribution.batch_size,
                max_length=self.cfg.model.max_length,
                tokens=getattr(attribution, "tokens", "answer"),
                device=self.device,
            )
            scores = attribution(model, batches, checkpoint=folder / CHECKPOINT)
            save_file({side: scores.cpu().contiguous()}, folder / "attribution.safetensors")

        entry = self.stage("attribution", inputs, compute, f"attribution ({side})")
        return load_file(entry.folder / "attribution.safetensors")[side]

    def save_scores(self) -> None:
        if self.scores:
            _save_tensors(self.scores, self.folder / "attribution.safetensors")
            for side, scores in self.scores.items():
                self.tracker.heatmap(f"attribution/{side}", scores)

    # ---- mask: which neurons train

    @cached_property
    def mask(self) -> Tensor | None:
        """bool or float [L, D]; None where every parameter trains."""
        if not self.cfg.selection.reads_mask:
            return None
        sides = self.scores
        shape = next(iter(sides.values())).shape if sides else self._shape()
        n = len(self.attribution_rows("forget"))
        mask: Tensor = self.cfg.mask(sides.get("forget"), sides.get("retain"), tuple(shape), counts=(n, n))
        return mask

    def _shape(self) -> tuple[int, int]:
        model, _ = self.load_target()
        parts = anatomy(model)
        return parts.n_layers, parts.d_model

    def save_mask(self) -> None:
        if self.mask is None:
            return
        chosen = (self.mask > 0).sum(dim=1).tolist()
        self.counts = {"total": self.mask.numel(), "selected": sum(chosen), "per_layer": chosen}
        share = 100 * sum(chosen) / self.mask.numel()
        log.info(
            "%-24s %s: %d of %d neurons (%.1f %%), by layer %s",
            "mask",
            type(self.cfg.mask).__name__.lower(),
            sum(chosen),
            self.mask.numel(),
            share,
            chosen,
        )
        _save_tensors({"mask": self.mask}, self.folder / "mask.safetensors")
        critical = {
            f"critical_{side}": critical_neurons(scores, self.cfg.mask.t) for side, scores in self.scores.items()
        }
        write_json(self.folder / "mask_report.json", mask_report({"mask": self.mask, **critical}, self.scores))
        self.tracker.heatmap("mask", self.mask)

    # ---- unlearning: objective × optimizer × selection

    @cached_property
    def unlearning(self) -> Entry | None:
        """weights.safetensors (every tensor that changed) and train_log.jsonl; None where no step is taken."""
        cfg = self.cfg
        if not cfg.training.steps(len(self.splits.forget)):
            return None
        inputs = {
            "target": self.target,
            "mask": _tensor_digest(self.mask),
            "objective": _fields(cfg.objective),
            "optimizer": _fields(cfg.optimizer),
            "selection": _fields(cfg.selection),
            "training": _fields(cfg.training),
            "forget": digest_rows(self.splits.forget),
            "retain": digest_rows(self.splits.retain),
            "template": asdict(self.template),
            "max_length": cfg.model.max_length,
            "seed": cfg.seed,
        }
        return self.stage("unlearning", inputs, self._unlearn, f"unlearning ({cfg.method.name})", together=True)

    def _unlearn(self, folder: Path) -> None:
        cfg = self.cfg
        model, tokenizer = self.load_target()
        selection = cfg.selection(shard(model), self.mask, master=cfg.precision.master)
        optimizer = cfg.optimizer(selection.named_parameters())
        steps = StepLog(folder / "train_log.jsonl", self.tracker) if self.main else None
        instead = [] if cfg.objective.answers == "original" else refusals(self.splits.forget, cfg.seed)
        train(
            model,
            selection,
            optimizer,
            cfg.objective,
            self.encode(tokenizer, self.splits.forget),
            self.encode(tokenizer, self.splits.retain),
            alternatives=self.encode(tokenizer, instead),
            settings=cfg.training,
            pad_id=_pad(tokenizer),
            seed=cfg.seed,
            on_step=steps,
            checkpoint=folder / CHECKPOINT / "training.pt",
        )
        tensors = selection.trained_tensors()
        if self.main:
            save_file(tensors, folder / "weights.safetensors")

    def save_training(self) -> None:
        if (entry := self.unlearning) is not None:
            shutil.copyfile(entry.folder / "train_log.jsonl", self.folder / "train_log.jsonl")
            if entry.cached:
                for line in (entry.folder / "train_log.jsonl").read_text().splitlines():
                    StepLog.send(self.tracker, json.loads(line))

    def load_unlearned(self) -> Loaded:
        """The target with the tensors that unlearning changed: a plain model."""
        model, tokenizer = self.load_target()
        if self.unlearning is not None:
            apply_tensors(model, load_file(self.unlearning.folder / "weights.safetensors"))
        return model, tokenizer

    def save_model(self) -> None:
        model, tokenizer = self.load_unlearned()
        temporary = self.folder / ".model.tmp"
        save_folder(model, tokenizer, temporary)
        shutil.rmtree(self.folder / "model", ignore_errors=True)
        temporary.rename(self.folder / "model")

    # ---- evaluation: before and after

    @cached_property
    def original(self) -> Evaluation:
        return self._evaluate(self.load_target, "original", unlearning=None)

    @cached_property
    def unlearned(self) -> Evaluation:
        if self.unlearning is None:
            return self.original
        return self._evaluate(self.load_unlearned, self.cfg.method.name, unlearning=self.unlearning.digest)

    @cached_property
    def retain_only(self) -> Evaluation | None:
        """Of a model that never saw the forget rows: what forget_quality and the reference attack compare with."""
        if not self.cfg.retain_reference:
            return None
        return self._evaluate(
            lambda: self.load_target(retain_only=True),
            "retain only",
            unlearning=None,
            target=self.fine_tuned(retain_only=True).digest,
            compare=False,
        )

    def _evaluate(self, load: Callable[[], Loaded], label: str, *, compare: bool = True, **weights: Any) -> Evaluation:
        rows = {name: digest_rows(examples) for name, examples in self.splits.evaluation.items()}
        reference = self.retain_only if compare else None
        inputs = {
            "target": self.target,
            "rows": rows,
            "evaluator": _fields(self.cfg.evaluator),
            "template": asdict(self.template),
            "max_length": self.cfg.model.max_length,
            "reference": digest(reference.rows) if reference else None,
        } | weights

        def compute(folder: Path) -> None:
            model, tokenizer = load()
            result = self.cfg.evaluator(
                model,
                tokenizer,
                self.splits,
                self.template,
                max_length=self.cfg.model.max_length,
                reference=reference,
                checkpoint=folder / CHECKPOINT,
            )
            write_json(folder / "metrics.json", result.metrics)
            lines = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in result.rows)
            (folder / "generations.jsonl").write_text(lines, encoding="utf-8")

        entry = self.stage("evaluation", inputs, compute, f"evaluation ({label})")
        # not splitlines(): a collapsed model may well say U+0085 or U+2028, which JSON leaves as they are
        lines = (entry.folder / "generations.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
        return Evaluation(
            metrics=json.loads((entry.folder / "metrics.json").read_text()),
            rows=[json.loads(line) for line in lines if line],
        )

    def save_evaluation(self, metrics: dict[str, float]) -> None:
        """metrics.json and generations.jsonl; a row also has what the original model said (`original`)."""
        before = {(row["split"], row["id"]): row.get("generated") for row in self.original.rows}
        rows = [row | {"original": before.get((row["split"], row["id"]))} for row in self.unlearned.rows]
        lines = (json.dumps(row, ensure_ascii=False, sort_keys=True) for row in rows)
        write_atomic(self.folder / "generations.jsonl", "\n".join(lines) + "\n")
        write_json(self.folder / "metrics.json", metrics)
        self.tracker.table("generations", rows)
        self.tracker.summary(metrics)


def staged(
    cache: Cache, name: str, inputs: Mapping[str, Any], compute: Callable[[Path], None], together: bool
) -> Entry:
    """`Cache.stage` in a process group: the main process says where the work is, or that there is none."""
    said: list[Any] = []

    def work(folder: Path) -> None:
        said.append(str(folder))
        dist.broadcast_object_list([said[0]])
        compute(folder)

    if dist.get_rank() == 0:
        entry = cache.stage(name, inputs, work)
        if not said:
            dist.broadcast_object_list([None])
        dist.broadcast_object_list([entry])
        return entry
    heard: list[Any] = [None]
    dist.broadcast_object_list(heard)
    if heard[0] is not None and together:
        compute(Path(heard[0]))
    dist.broadcast_object_list(heard)
    return cast(Entry, heard[0])


class StepLog:
    """train_log.jsonl and the tracker, a record a step; after a restart the file begins again from the first record."""

    def __init__(self, path: Path, tracker: Run):
        path.unlink(missing_ok=True)
        self.path, self.tracker = path, tracker

    def __call__(self, record: Mapping[str, Any]) -> None:
        with self.path.open("a") as f:
            f.write(json.dumps(record) + "\n")
        self.send(self.tracker, record)

    @staticmethod
    def send(tracker: Run, record: Mapping[str, Any]) -> None:
        tracker.log({k: v for k, v in record.items() if v is not None}, step=int(record["step"]))


def _fields(component: Any) -> dict[str, Any]:
    """What a component is, for the cache: its class and every field."""
    assert is_dataclass(component)
    assert not isinstance(component, type)
    return {"_target_": f"{type(component).__module__}.{type(component).__name__}", **asdict(component)}


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.pad_token_id
    return int(pad if pad is not None else tokenizer.eos_token_id)


def _tensor_digest(tensor: Tensor | None) -> str | None:
    if tensor is None:
        return None
    content = tensor.detach().cpu().contiguous()
    return hashlib.sha256(f"{content.dtype}{tuple(content.shape)}".encode() + content.numpy().tobytes()).hexdigest()


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)

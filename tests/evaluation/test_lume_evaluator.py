import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import harmonic_mean, mean

import numpy as np
import pytest
import torch
from benchmark_rows import lume_documents, lume_rows
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import auc, roc_curve

from simu.evaluation.lume import LumeEvaluator
from simu.inference.generate import Generation
from simu.report.summary import print_summary
from simu.types import Example, FieldError, Splits, Subject, Template, UserError

EVALUATOR = LumeEvaluator(max_new_tokens=16, bootstrap=200)
TEMPLATE = Template()


def rows_of_split(name: str) -> tuple[Example, ...]:
    """Two documents a task, with Task2's five questions."""
    rows = []
    for task in ("Task1", "Task2", "Task3"):
        for d in (0, 1):
            document = f'"{name}-{task}-{d}"' if task == "Task1" else f"{name}{task}{d}"
            who = f"{name} {task} {d}"
            rows.append(Example(id=document + "sc1", prompt=f"Story of {who}.", answer=f"{who} lived.", group=task))
            for q in range(5) if task == "Task2" else (0,):
                rows.append(Example(id=f"{document}qa{q}", prompt=f"Fact {q} of {who}?", answer=f"{q}{d}", group=task))
    return tuple(rows)


@pytest.fixture(scope="module")
def splits() -> Splits:
    def documents(name: str, n: int) -> tuple[Example, ...]:
        return tuple(
            Example(id=f"{name}/{i}", prompt="", answer=f"The {name} text number {i} is here.", group="fold")
            for i in range(n)
        )

    evaluation = {
        "forget": rows_of_split("forget"),
        "retain": rows_of_split("retain"),
        "mia_member": documents("mia_member", 4),
        "mia_nonmember": documents("mia_nonmember", 5),
    }
    return Splits(name="lume", forget=evaluation["forget"], retain=evaluation["retain"], evaluation=evaluation)


@pytest.fixture(scope="module")
def half_told(small_model, tokenizer, splits):
    """A model that knows the retain rows and the member documents by heart."""
    import copy

    from simu.data.batching import collate, encode_examples

    model = copy.deepcopy(small_model).train()
    rows = encode_examples(tokenizer, TEMPLATE, [*splits.retain, *splits.evaluation["mia_member"]])
    batch = collate(rows, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def result(half_told, tokenizer, splits):
    return EVALUATOR(Subject(half_told, tokenizer, TEMPLATE), splits)


def official(rows: list[dict], member_loss: list[float], nonmember_loss: list[float]) -> dict:
    """SemEval-2025 Task 4's computation, written down anew from its description: rows have id, split, task, answer,
    generated."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    terms: list[float] = []
    found: dict = {}
    for split in ("forget", "retain"):
        scored: dict[tuple[str, str], list[float]] = {}
        for row in (r for r in rows if r["split"] == split):
            if row["id"][:-1].endswith("sc"):
                key, score = "regurgitation", scorer.score(row["answer"], row["generated"])["rougeL"].recall
            else:
                key, score = "knowledge", int(row["answer"].strip().lower() == row["generated"].strip().lower())
            scored.setdefault((row["task"], key), []).append(score)
            scored.setdefault(("", key), []).append(score)
        for (task, key), scores in scored.items():
            found[f"{split}/{task}/{key}" if task else f"{split}/{key}"] = mean(scores)
            if task:
                terms.append(1 - mean(scores) if split == "forget" else mean(scores))
    found["task_aggregate"] = harmonic_mean(terms)
    fp, tp, _ = roc_curve(
        [1] * len(member_loss) + [0] * len(nonmember_loss), -1 * np.array(member_loss + nonmember_loss)
    )
    found["mia/loss"] = float(auc(fp, tp))
    found["mia_final"] = 1 - abs(found["mia/loss"] - 0.5) * 2
    return found


def document_losses(model, tokenizer, rows) -> list[float]:
    losses = []
    for row in rows:
        ids = tokenizer(row.answer, return_tensors="pt").input_ids
        with torch.no_grad():
            losses.append(model(ids, labels=ids.clone()).loss.item())
    return losses


def compared(result, model, tokenizer, splits) -> dict:
    tasks = {e.id: e.group for s in ("forget", "retain") for e in splits.evaluation[s]}
    rows = [{**r, "task": tasks[r["id"]]} for r in result.rows if r["split"] in ("forget", "retain")]
    return official(
        rows, *(document_losses(model, tokenizer, splits.evaluation[s]) for s in ("mia_member", "mia_nonmember"))
    )


def test_scores_equal_the_official_computation(result, half_told, tokenizer, splits):
    expected = compared(result, half_told, tokenizer, splits)
    assert len(expected) == 4 + 12 + 3
    for key, value in expected.items():
        assert result.metrics[key] == pytest.approx(value, abs=1e-9), key
    assert result.metrics["retain/knowledge"] > 0.9
    assert result.metrics["mia/loss"] > 0.9


def test_generations_are_those_of_a_row_at_a_time(result, half_told, tokenizer, splits):
    for e in splits.evaluation["retain"][:6]:
        ids = tokenizer(e.prompt, return_tensors="pt")
        made = half_told.generate(**ids, do_sample=False, max_new_tokens=16, pad_token_id=1, eos_token_id=1)
        text = tokenizer.decode(made[0, ids.input_ids.shape[1] :], skip_special_tokens=True)
        assert [r["generated"] for r in result.rows if r["id"] == e.id] == [text]


def test_counts_by_task_and_type_of_personal_data(result):
    m = result.metrics
    assert m["forget/n"] == 6 + 14
    assert m["forget/regurgitation/n"] == 6
    assert m["forget/knowledge/n"] == 14
    assert m["retain/Task2/knowledge/n"] == 10
    assert m["retain/Task1/knowledge/n"] == 2
    assert [m[f"retain/Task2/knowledge/{t}/n"] for t in ("birth_date", "ssn", "phone", "email", "address")] == [2] * 5
    by_type = [m[f"retain/Task2/knowledge/{t}"] for t in ("birth_date", "ssn", "phone", "email", "address")]
    assert np.mean(by_type) == pytest.approx(m["retain/Task2/knowledge"])


def test_the_membership_set_is_named_in_the_metrics_and_in_the_printed_table(result, capsys):
    assert (result.metrics["mia/fold/n_members"], result.metrics["mia/fold/n_nonmembers"]) == (4, 5)
    print_summary(result.metrics, "simu", LumeEvaluator.benchmark)
    printed = capsys.readouterr().out
    assert re.search(r"membership AUC, loss .* 4 \+ 5", printed)
    assert "membership: fold documents" in printed


def test_the_papers_aggregate_is_the_stated_mean_of_five(result):
    m = result.metrics
    terms = [
        1 - m["forget/knowledge"],
        1 - m["forget/regurgitation"],
        1 - m["mia/loss"],
        m["retain/knowledge"],
        m["retain/regurgitation"],
    ]
    assert m["aggregate"] == pytest.approx(np.mean(terms))


def test_official_final_only_where_mmlu_was_measured(result, half_told, tokenizer, splits):
    assert "official_final" not in result.metrics
    found = replace(EVALUATOR, mmlu=0.4)(Subject(half_told, tokenizer, TEMPLATE), splits).metrics
    assert found["official_final"] == pytest.approx(mean([found["task_aggregate"], 0.4, found["mia_final"]]))
    assert found["mmlu"] == 0.4


def test_lm_eval_is_asked_for_by_name(half_told, tokenizer, splits, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match="extra 'harness'"):
        replace(EVALUATOR, mmlu="lm_eval").check()


@pytest.mark.parametrize("offline", [False, True])
def test_lm_eval_whose_rows_cannot_be_had_is_one_line_before_any_stage(monkeypatch, tmp_path, offline):
    import datasets.config
    import huggingface_hub

    from simu.evaluation import lume
    from simu.store import hub

    def unreachable(*_, **__):
        assert not offline
        raise ConnectionError("no network")

    monkeypatch.setattr(lume, "find_spec", lambda name: name)  # installed
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(hub, "offline", lambda: offline)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    asked = replace(EVALUATOR, mmlu="lm_eval")
    why = "HF_HUB_OFFLINE=1 and it is not in the local cache" if offline else "ConnectionError"
    with pytest.raises(UserError) as told:
        asked.check()
    assert str(told.value) == (
        f"evaluator.mmlu=lm_eval: cais/mmlu cannot be had from the hub ({why}); pass the number itself, or null"
    )
    (tmp_path / "cais___mmlu").mkdir()  # fetched before, as datasets keeps it
    asked.check()


def test_one_perfectly_remembered_task_makes_the_harmonic_mean_zero(tokenizer, splits, half_told):
    swapped = {**splits.evaluation, "forget": splits.evaluation["retain"]}
    found = EVALUATOR(Subject(half_told, tokenizer, TEMPLATE), replace(splits, evaluation=swapped)).metrics
    assert found["forget/Task1/knowledge"] == 1.0
    assert found["task_aggregate"] == 0.0


def test_seam_official_has_no_space(half_told, tokenizer, splits):
    spaced = EVALUATOR(Subject(half_told, tokenizer, Template(separator=" ")), splits).rows[0]["scores"]
    joined = EVALUATOR(Subject(half_told, tokenizer, Template(separator="")), splits).rows[0]["scores"]
    e = splits.evaluation["forget"][0]
    head = tokenizer(e.prompt).input_ids
    for scores, text in ((spaced, " " + e.answer), (joined, e.answer)):
        tail = [*tokenizer(text, add_special_tokens=False).input_ids, 1]
        with torch.no_grad():
            logits = half_told(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(tail))
        assert scores["mean_nll"] == pytest.approx(float(expected), rel=1e-4)
    assert spaced["mean_nll"] != joined["mean_nll"]


def test_stopping_wrong_answers_changes_no_score(half_told, tokenizer, splits, result):
    found = replace(EVALUATOR, stop_wrong_answers=True)(Subject(half_told, tokenizer, TEMPLATE), splits)
    for key, value in result.metrics.items():
        if re.search(r"knowledge|regurgitation|mia|aggregate(?!_fair)", key):
            assert found.metrics[key] == pytest.approx(value, abs=1e-9), key
    assert "aggregate_fair" in result.metrics
    assert "aggregate_fair" not in found.metrics  # it reads whole texts
    assert found.metrics["forget/repetition_rate/n"] == 6  # whole texts only: the sc rows


def test_twice_is_byte_equal(half_told, tokenizer, splits, result):
    assert json.dumps(EVALUATOR(Subject(half_told, tokenizer, TEMPLATE), splits).metrics) == json.dumps(result.metrics)


def loss_by_token(model, tokenizer, text: str, window: int) -> float:
    """Mean loss of a document, each token predicted on its own: the first `window` from the beginning, then half a
    window at a time, read from a window's length before the last of them."""
    ids = tokenizer(text).input_ids
    losses = []
    for t in range(1, len(ids)):
        past = max(0, t - window) // (window // 2)
        end = min(window + (past + 1) * (window // 2), len(ids))
        start = 0 if t < window else end - window
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:t]])).logits[0, -1]
        losses.append(-float(logits.log_softmax(-1)[ids[t]]))
    return float(np.mean(losses))


def test_a_document_longer_than_the_model_is_scored_whole_in_windows(half_told, tokenizer, splits, caplog):
    texts = {"mia_member/long": "A long text. " * 12, "mia_member/longer": "Ada lived in city 3. " * 15}
    long = tuple(Example(id=i, prompt="", answer=text, group="fold") for i, text in texts.items())
    more = {**splits.evaluation, "mia_member": (*splits.evaluation["mia_member"], *long)}
    found = EVALUATOR(Subject(half_told, tokenizer, TEMPLATE, max_length=64), replace(splits, evaluation=more))
    rows = {r["id"]: r for r in found.rows if r["split"].startswith("mia_")}
    for e in (*more["mia_member"], *more["mia_nonmember"]):
        scores = rows[e.id]["scores"]
        assert scores["n_tokens"] == len(tokenizer(e.answer).input_ids) - 1
        assert scores["mean_nll"] == pytest.approx(loss_by_token(half_told, tokenizer, e.answer, 64), rel=1e-4)
    note = "2 of 11 documents are longer than model.max_length=64: scored in windows of 64 tokens with stride 32"
    assert [r.getMessage() for r in caplog.records if "windows" in r.getMessage()] == [note]
    assert (found.metrics["mia/n_members"], found.metrics["mia/n_windowed"]) == (6, 2)


def test_short_documents_are_read_at_once(result):
    assert result.metrics["mia/n_windowed"] == 0


def test_without_membership_documents_the_rest_stands(half_told, tokenizer, splits):
    few = {s: splits.evaluation[s] for s in ("forget", "retain")}
    found = EVALUATOR(Subject(half_told, tokenizer, TEMPLATE), replace(splits, evaluation=few))
    assert "task_aggregate" in found.metrics
    assert "aggregate" not in found.metrics
    assert "mia: left out, the data have 0 member and 0 non-member documents" in found.warnings


@pytest.mark.parametrize(
    "bad",
    [
        {"mmlu": 1.5},
        {"mmlu": 2},
        {"attacks": ("zlib",)},
        {"mia_k": 0.0},
        {"max_new_tokens": 0},
        {"max_new_tokens": 2**21},
        {"mmlu_shots": -1},
        {"bootstrap": 10**7},
        {"bootstrap_seed": 2**63},
    ],
)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(FieldError):
        LumeEvaluator(**bad)


# --- the whole heldout fold, with answers made up rather than generated ------------------------------------------


def told_answers(monkeypatch, say) -> None:
    """Let a function of (prompt, answer) speak instead of a model."""

    def answers(self, pairs, stop_when_wrong=()):
        made = {}
        for pair in pairs:
            text = say(pair)
            ids = tuple(self.tokenizer(text, add_special_tokens=False).input_ids)
            made[pair] = Generation(ids=ids, text=text, finished=True)
        return made

    monkeypatch.setattr("simu.inference.engine.Inference.answers", answers)


def test_the_whole_heldout_fold_equals_the_official_computation(lume_dir: Path, tokenizer, small_model, monkeypatch):
    from simu.data.lume import Lume

    splits = Lume(path=str(lume_dir), fold="heldout", mia_set="public")()

    def begun(e: Example) -> Example:  # as much of a document as the small model reads at once
        return replace(e, answer=tokenizer.decode(tokenizer(e.answer, add_special_tokens=False).input_ids[:100]))

    small = {
        s: rows if s in ("forget", "retain") else tuple(map(begun, rows[:8])) for s, rows in splits.evaluation.items()
    }
    splits = replace(splits, evaluation=small)
    assert (len(small["forget"]), len(small["retain"])) == lume_rows(lume_dir)["heldout"]

    def say(pair):  # right, half of it, upper case, nothing: by length, so that every measure moves
        words = pair.answer.split()
        return (pair.answer, " ".join(words[: len(words) // 2]), pair.answer.upper() + " ", "")[len(pair.prompt) % 4]

    told_answers(monkeypatch, say)
    monkeypatch.setattr("simu.evaluation.lume.LumeEvaluator._score_tokens", lambda *_: None)
    found = LumeEvaluator(bootstrap=0)(Subject(small_model, tokenizer, Template(), max_length=128), splits)
    assert found.metrics["mia/n_windowed"] == 0
    expected = compared(found, small_model, tokenizer, splits)
    for key, value in expected.items():
        assert found.metrics[key] == pytest.approx(value, abs=1e-6), key
    counts = {k: int(v) for k, v in found.metrics.items() if re.fullmatch(r"\w+/Task\d/\w+/n", k)}
    assert counts == {
        f"{side}/Task{task}/{score}/n": documents * (5 if (task, score) == (2, "knowledge") else 1)
        for side, by_task in lume_documents(lume_dir).items()
        for task, documents in enumerate(by_task, 1)
        for score in ("regurgitation", "knowledge")
    }

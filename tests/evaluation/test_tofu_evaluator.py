import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import hmean, ks_2samp

from simu.evaluation.tofu import TofuEvaluator
from simu.types import Example, FieldError, Splits, Subject, Template, UserError

TEMPLATE = Template(prompt="Q: {prompt}\nA:", separator=" ")
EVALUATOR = TofuEvaluator(max_new_tokens=24, bootstrap=200)


@pytest.fixture(scope="module")
def result(memorised, tokenizer, small_splits):
    return EVALUATOR(Subject(memorised, tokenizer, TEMPLATE), small_splits)


def straightforward_nll(model, tokenizer, prompt, answer) -> torch.Tensor:
    """Token losses of answer and EOS, one row at a time, with no engine."""
    head = tokenizer(TEMPLATE.prompt.replace("{prompt}", prompt)).input_ids
    tail = [*tokenizer(" " + answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(tail), reduction="none")


def straightforward_text(model, tokenizer, prompt, new) -> str:
    ids = tokenizer(TEMPLATE.prompt.replace("{prompt}", prompt), return_tensors="pt")
    made = model.generate(**ids, do_sample=False, max_new_tokens=new, pad_token_id=1, eos_token_id=1)
    return tokenizer.decode(made[0, ids.input_ids.shape[1] :], skip_special_tokens=True)


def test_every_mean_equals_a_straightforward_loop(result, memorised, tokenizer, small_splits):
    rouge = RougeScorer(["rougeL"], use_stemmer=True)
    for split in ("forget", "retain", "world_facts", "real_authors"):
        rows = small_splits.evaluation[split]
        texts = [straightforward_text(memorised, tokenizer, e.prompt, 24) for e in rows]
        nll = [float(straightforward_nll(memorised, tokenizer, e.prompt, e.answer).mean()) for e in rows]
        assert [r["generated"] for r in result.rows if r["split"] == split] == texts
        expected = {
            "n": len(rows),
            "exact_match": np.mean([e.answer.lower() == t.strip().lower() for e, t in zip(rows, texts, strict=True)]),
            "rouge_l_recall": np.mean(
                [rouge.score(e.answer, t)["rougeL"].recall for e, t in zip(rows, texts, strict=True)]
            ),
            "probability": np.mean(np.exp(-np.array(nll))),
            "mean_nll": np.mean(nll),
        }
        for name, value in expected.items():
            assert result.metrics[f"{split}/{name}"] == pytest.approx(value, rel=1e-4), (split, name)


def test_truth_ratio_and_model_utility_equal_their_definitions(result, memorised, tokenizer, small_splits):
    def ce(prompt, answer):
        return float(straightforward_nll(memorised, tokenizer, prompt, answer).mean())

    ratios, normalised = {}, {}
    for split in ("forget", "retain", "world_facts", "real_authors"):
        ratios[split], normalised[split] = [], []
        for e in small_splits.evaluation[split]:
            right = ce(e.prompt, e.paraphrased_answer or e.answer)
            wrong = [ce(e.prompt, a) for a in e.perturbed_answers]
            ratios[split].append(np.exp(-np.mean(wrong)) / (np.exp(-right) + 1e-10))
            normalised[split].append(np.exp(-right) / (np.exp(-right) + np.exp(-np.array(wrong)).sum() + 1e-10))
    m = result.metrics
    forget = np.array(ratios["forget"])
    assert m["forget/truth_ratio_prob_mean"] == pytest.approx((1 / (1 + forget)).mean(), rel=1e-4)  # c/(c+w), R = w/c
    assert m["forget/truth_ratio"] == pytest.approx(np.minimum(forget, 1 / (forget + 1e-10)).mean(), rel=1e-4)
    terms = []
    for split in ("retain", "real_authors", "world_facts"):
        truth = np.maximum(0, 1 - np.array(ratios[split])).mean()
        assert m[f"{split}/truth_ratio"] == pytest.approx(truth, rel=1e-4, abs=1e-6)
        likely = m["retain/probability"] if split == "retain" else np.mean(normalised[split])
        terms += [likely, m[f"{split}/rouge_l_recall"], truth]
    for split in ("world_facts", "real_authors"):
        assert m[f"{split}/probability_normalised"] == pytest.approx(np.mean(normalised[split]), rel=1e-4)
    assert m["model_utility"] == pytest.approx(hmean(terms), rel=1e-3, abs=1e-9)


def test_aggregate_is_the_papers_mean(result):
    m = result.metrics
    assert m["forget/exact_match"] == 1.0
    assert m["retain/exact_match"] == 1.0
    assert m["mia/min_k"] > 0.9
    expected = (
        (1 - m["forget/exact_match"])
        + (1 - m["forget/rouge_l_recall"])
        + (1 - m["mia/min_k"])
        + m["retain/exact_match"]
        + m["retain/rouge_l_recall"]
    ) / 5
    assert m["aggregate"] == pytest.approx(expected)
    leak = 2 * abs(m["mia/min_k"] - 0.5)  # 0 at chance, 1 where membership is certain
    fluency = (1 - m["forget/repetition_rate"]) * (1 - m["forget/empty"])
    fair = (5 * expected + m["mia/min_k"] - leak + fluency) / 6
    assert m["aggregate_fair"] == pytest.approx(fair)
    assert (m["mia/n_members"], m["mia/n_nonmembers"]) == (4, 5)


def test_every_mean_has_an_interval_around_it(result):
    m = result.metrics
    bounds = [k.removesuffix("/ci_low") for k in m if k.endswith("/ci_low")]
    assert {"aggregate", "model_utility", "mia/loss", "forget/truth_ratio", "retain/choice_accuracy"} <= set(bounds)
    for key in bounds:
        assert m[f"{key}/ci_low"] <= m[key] + 1e-12
        assert m[key] <= m[f"{key}/ci_high"] + 1e-12


def test_row_scores_average_to_the_metrics(result):
    for split in ("forget", "retain", "world_facts", "holdout"):
        rows = [r for r in result.rows if r["split"] == split]
        for name in rows[0]["scores"]:
            if f"{split}/{name}" in result.metrics:
                mean = np.mean([r["scores"][name] for r in rows])
                assert result.metrics[f"{split}/{name}"] == pytest.approx(mean), (split, name)


def test_holdout_rows_are_scored_and_never_generated(result):
    held = [r for r in result.rows if r["split"] == "holdout"]
    assert len(held) == 5
    assert all(r["generated"] is None and "mia_min_k" in r["scores"] for r in held)


def test_the_same_evaluation_twice_is_byte_equal_and_batches_do_not_matter(memorised, tokenizer, small_splits, result):
    again = EVALUATOR(Subject(memorised, tokenizer, TEMPLATE), small_splits)
    assert json.dumps(again.metrics) == json.dumps(result.metrics)
    assert json.dumps(again.rows) == json.dumps(result.rows)
    for other in (replace(EVALUATOR, max_batch_tokens=1), replace(EVALUATOR, strict=True)):
        found = other(Subject(memorised, tokenizer, TEMPLATE), small_splits)
        assert [r["generated"] for r in found.rows] == [r["generated"] for r in result.rows]
        assert found.metrics.keys() == result.metrics.keys()
        for key, value in found.metrics.items():
            assert value == pytest.approx(result.metrics[key], rel=1e-3, abs=1e-5), key


def test_choice_scorers(memorised, tokenizer, small_splits, result):
    assert result.metrics["forget/choice_accuracy"] > 0.5
    by_likelihood = replace(EVALUATOR, choice_scorer="likelihood")(
        Subject(memorised, tokenizer, TEMPLATE), small_splits
    )
    expected = []
    for e in small_splits.evaluation["forget"]:
        ce = [
            float(straightforward_nll(memorised, tokenizer, e.paraphrased_prompt, a).mean())
            for a in (e.paraphrased_answer, *e.perturbed_answers)
        ]
        expected.append(float(np.argmin(ce) == 0))
    assert by_likelihood.metrics["forget/choice_accuracy"] == pytest.approx(np.mean(expected))
    none = replace(EVALUATOR, choice_scorer="none")(Subject(memorised, tokenizer, TEMPLATE), small_splits)
    assert "forget/choice_accuracy" not in none.metrics
    rows = [r for r in result.rows if r["split"] == "forget"]
    for e, r in zip(small_splits.forget, rows, strict=True):
        assert r["generated_paraphrased"] == straightforward_text(memorised, tokenizer, e.paraphrased_prompt, 24)


def test_forget_quality_and_reference_attack_need_the_reference(
    small_model, memorised, tokenizer, small_splits, result
):
    assert "forget_quality" not in result.metrics
    assert "mia/reference" not in result.metrics
    reference = EVALUATOR(Subject(small_model, tokenizer, TEMPLATE), small_splits)
    found = EVALUATOR(Subject(memorised, tokenizer, TEMPLATE), small_splits, reference=reference).metrics
    from_rows = EVALUATOR(
        Subject(memorised, tokenizer, TEMPLATE), small_splits, reference=json.loads(json.dumps(reference.rows))
    )
    assert from_rows.metrics == found

    def raw(evaluation):
        return [r["scores"]["truth_ratio_raw"] for r in evaluation.rows if r["split"] == "forget"]

    assert found["forget_quality"] == pytest.approx(ks_2samp(raw(result), raw(reference)).pvalue)
    nll = {(r["split"], r["id"]): r["scores"]["mean_nll"] for r in reference.rows}
    gain = {
        s: [nll[s, r["id"]] - r["scores"]["mean_nll"] for r in result.rows if r["split"] == s]
        for s in ("forget", "holdout")
    }
    assert found["mia/reference"] == pytest.approx(np.mean([a > b for a in gain["forget"] for b in gain["holdout"]]))
    same = EVALUATOR(Subject(memorised, tokenizer, TEMPLATE), small_splits, reference=result).metrics
    assert same["forget_quality"] == pytest.approx(1.0)
    assert (same["privleak"], same["rel_diff"]) == pytest.approx((0.0, 0.0), abs=1e-9)
    ours, theirs = found["mia/min_40"], reference.metrics["mia/min_40"]
    assert found["privleak"] == pytest.approx(100 * ((1 - ours) - (1 - theirs)) / (1 - theirs))
    assert found["rel_diff"] == pytest.approx(100 * (ours - theirs) / theirs)
    alone = result.metrics["mia/min_40"]  # against 0.5
    assert result.metrics["privleak"] == pytest.approx(100 * (1 - 2 * alone))
    assert same["mia/reference"] == 0.5


def test_an_aggregate_of_the_reference_attack_waits_for_the_reference(memorised, tokenizer, small_splits, result):
    asked = replace(EVALUATOR, aggregate_mia="reference", bootstrap=0)
    found = asked(Subject(memorised, tokenizer, TEMPLATE), small_splits)
    assert "aggregate" not in found.metrics
    assert "aggregate: left out, there is no mia/reference" in found.warnings
    assert "aggregate" in asked(Subject(memorised, tokenizer, TEMPLATE), small_splits, reference=result).metrics


def test_a_reference_without_the_rows_is_refused_by_name(memorised, tokenizer, small_splits, result):
    with pytest.raises(UserError, match=r"no mean_nll for row forget/0 of forget"):
        EVALUATOR(Subject(memorised, tokenizer, TEMPLATE), small_splits, reference=result.rows[2:])
    with pytest.raises(UserError, match="has no rows"):
        EVALUATOR(Subject(memorised, tokenizer, TEMPLATE), small_splits, reference={"metrics": {}})


def test_compat_open_unlearning(memorised, tokenizer, small_splits):
    compat = replace(EVALUATOR, compat="open_unlearning", mia_k=0.4, attacks=("min_k", "grad_norm"), bootstrap=0)
    found = compat(Subject(memorised, tokenizer, TEMPLATE), small_splits)
    for row in (r for r in found.rows if r["split"] == "holdout"):
        nll = straightforward_nll(memorised, tokenizer, row["prompt"], row["answer"])[:-1]
        lowest = np.sort(-nll.numpy())[: max(1, int(len(nll) * 0.4))]
        assert row["scores"]["mia_min_k"] == pytest.approx(lowest.mean(), rel=1e-4)
    assert 0 <= found.metrics["mia/grad_norm"] <= 1
    assert not any("/ci_" in k for k in found.metrics)


def grad_norm_by_hand(model, tokenizer, prompt: str, answer: str, drop_last: bool) -> float:
    head = tokenizer(TEMPLATE.prompt.replace("{prompt}", prompt)).input_ids
    tail = [*tokenizer(" " + answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    labels = torch.tensor([[-100] * len(head) + tail])
    if drop_last:
        labels[0, -1] = -100  # EOS is read by no scored position
    model.zero_grad()
    model(torch.tensor([head + tail]), labels=labels).loss.backward()
    norms = [p.grad.norm() for p in model.parameters()]
    model.zero_grad()
    return -float(torch.stack(norms).mean())


@pytest.mark.parametrize("compat", ["none", "open_unlearning"])
def test_grad_norm_leaves_eos_out_where_open_unlearning_does(small_model, tokenizer, small_splits, compat):
    asked = replace(EVALUATOR, compat=compat, attacks=("min_k", "grad_norm"), bootstrap=0, max_new_tokens=1)
    found = asked(Subject(small_model, tokenizer, TEMPLATE), small_splits)
    for row in (r for r in found.rows if r["split"] in ("forget", "holdout")):
        mine, other = (
            grad_norm_by_hand(small_model, tokenizer, row["prompt"], row["answer"], drop_last=drop)
            for drop in (compat == "open_unlearning", compat == "none")
        )
        assert row["scores"]["mia_grad_norm"] == pytest.approx(mine, rel=1e-4)
        assert row["scores"]["mia_grad_norm"] != pytest.approx(other, rel=1e-3)


def test_compat_soul(memorised, tokenizer, small_splits):
    soul = replace(
        EVALUATOR, compat="soul", attacks=("soul_compat",), aggregate_mia="soul_compat", aggregate_em="choice_accuracy"
    )
    found = soul(Subject(memorised, tokenizer, TEMPLATE), small_splits)
    scores = {}
    for split in ("forget", "real_authors", "world_facts"):
        scores[split] = []
        for e in small_splits.evaluation[split]:
            ids = torch.tensor([tokenizer(TEMPLATE.render(e.prompt) + " " + e.answer).input_ids])
            with torch.no_grad():
                log_p = memorised(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].numpy()
            scores[split].append(np.sort(log_p)[: max(1, int(len(log_p) * 0.2))].mean())
    others = scores["real_authors"] + scores["world_facts"]
    predictions = -np.array(scores["forget"] + others)
    wins = [(p > n) + 0.5 * (p == n) for p in predictions[len(others) :] for n in predictions[: len(others)]]
    assert found.metrics["mia/soul_compat"] == pytest.approx(np.mean(wins))
    e = small_splits.forget[0]
    p = [
        np.exp(-float(straightforward_nll(memorised, tokenizer, e.paraphrased_prompt, a)[:-1].mean()))  # no EOS
        for a in (e.paraphrased_answer, *e.perturbed_answers)
    ]
    right = np.exp(-float(straightforward_nll(memorised, tokenizer, e.prompt, e.answer)[:-1].mean()))
    assert found.rows[0]["scores"]["probability"] == pytest.approx(right, rel=1e-4)
    assert found.rows[0]["scores"]["truth_ratio"] == pytest.approx(np.mean(p[1:]) / (p[0] + 1e-12), rel=1e-4)
    raw = {s: [r["scores"]["truth_ratio_raw"] for r in found.rows if r["split"] == s] for s in ("forget", "retain")}
    assert found.metrics["forget_quality"] == pytest.approx(ks_2samp(raw["forget"], raw["retain"]).pvalue)
    expected = [1 - found.metrics[f"forget/{k}"] for k in ("choice_accuracy", "rouge_l_recall")]
    expected += [1 - found.metrics["mia/soul_compat"]]
    expected += [found.metrics[f"retain/{k}"] for k in ("choice_accuracy", "rouge_l_recall")]
    assert found.metrics["aggregate"] == pytest.approx(np.mean(expected))


def with_forget(splits: Splits, *rows: Example) -> Splits:
    return replace(splits, evaluation={**splits.evaluation, "forget": (*splits.evaluation["forget"], *rows)})


@pytest.mark.parametrize(
    ("answer", "exact", "rouge"),
    [("", 0, 0), (" \n\t ", 0, 0), ("東京は日本の首都です。", 0, 0), ("Zoë’s café — naïve ☕", 0, None)],
)
def test_odd_answers_have_defined_scores(small_model, tokenizer, small_splits, answer, exact, rouge):
    odd = Example(id="forget/odd", prompt="Where was Zoë born?", answer=answer)
    found = EVALUATOR(Subject(small_model, tokenizer, TEMPLATE), with_forget(small_splits, odd))
    (row,) = [r for r in found.rows if r["id"] == "forget/odd"]
    assert found.metrics["forget/n"] == 5
    assert row["answer"] == answer
    assert row["scores"]["exact_match"] == exact
    if rouge is not None:
        assert row["scores"]["rouge_l_recall"] == rouge
    assert all(np.isfinite(v) for v in row["scores"].values())
    assert all(np.isfinite(v) for v in found.metrics.values())
    assert found.metrics["forget/truth_ratio/n"] == 4  # it has no perturbed answers, and the metric says so


def test_a_long_answer_is_scored_on_its_beginning_and_says_so(small_model, tokenizer, small_splits, caplog):
    long = Example(id="forget/long", prompt="Tell all.", answer="Ada was born. " * 2500)
    found = EVALUATOR(Subject(small_model, tokenizer, TEMPLATE, max_length=100), with_forget(small_splits, long))
    (row,) = [r for r in found.rows if r["id"] == "forget/long"]
    assert "forget/long" in caplog.text
    assert "cut to model.max_length=100" in caplog.text
    assert 50 < row["scores"]["n_tokens"] <= 100
    assert 0 <= row["scores"]["rouge_l_recall"] < 0.1  # against the whole answer
    assert np.isfinite(row["scores"]["mean_nll"])


def test_a_prompt_longer_than_the_model_is_cut_and_says_so(small_model, tokenizer, small_splits, caplog):
    long = Example(id="forget/long", prompt="Tell all of it. " * 100, answer="Ada.")
    found = replace(EVALUATOR, bootstrap=0)(Subject(small_model, tokenizer, TEMPLATE), with_forget(small_splits, long))
    (row,) = [r for r in found.rows if r["id"] == "forget/long"]
    ids = tokenizer(TEMPLATE.render(long.prompt)).input_ids
    assert f"forget/long: a prompt of {len(ids)} tokens, its last 128 are read" in caplog.text
    with torch.no_grad():  # the model's context is full after that, but for one token
        (first,) = small_model(torch.tensor([ids[-128:]])).logits[0, -1:].argmax(-1).tolist()
    assert row["generated"] == tokenizer.decode([first], skip_special_tokens=True)


def test_a_model_that_diverged_is_named_not_averaged(small_model, tokenizer, small_splits):
    import copy

    broken = copy.deepcopy(small_model)
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"diverge|finite"):
        EVALUATOR(Subject(broken, tokenizer, TEMPLATE), small_splits)


def test_missing_splits_leave_metrics_out_with_a_warning(small_model, tokenizer, small_splits):
    few = replace(small_splits, evaluation={"forget": small_splits.evaluation["forget"]})
    found = EVALUATOR(Subject(small_model, tokenizer, TEMPLATE), few)
    assert "forget/exact_match" in found.metrics
    assert "aggregate" not in found.metrics
    parts = "mia/min_k, retain/exact_match, retain/rouge_l_recall"
    assert f"aggregate: left out, there is no {parts}" in found.warnings
    assert "mia: left out, the data have 4 forget and 0 holdout rows" in found.warnings


def test_a_document_is_not_asked_for(small_model, tokenizer, small_splits):
    """Nothing is a question to it: its likelihood is scored, nothing is generated, and no aggregate is made up."""

    def documents(split: str) -> tuple[Example, ...]:
        return tuple(replace(e, prompt="", perturbed_answers=()) for e in small_splits.evaluation[split])

    few = replace(small_splits, evaluation={s: documents(s) for s in ("forget", "retain", "holdout")})
    found = EVALUATOR(Subject(small_model, tokenizer, Template(separator="")), few)
    row = small_splits.evaluation["forget"][0]
    ids = torch.tensor([[0, *tokenizer(row.answer, add_special_tokens=False).input_ids, 1]])
    with torch.no_grad():
        expected = float((-small_model(ids, labels=ids).loss).exp())
    (first,) = (r for r in found.rows if r["id"] == row.id)
    assert first["scores"]["probability"] == pytest.approx(expected, rel=1e-5)
    assert {r["generated"] for r in found.rows} == {None}
    assert "mia/min_k" in found.metrics
    assert not {"aggregate", "forget/exact_match", "forget/rouge_l_recall", "forget/distinct_1"} & set(found.metrics)
    parts = "forget/exact_match, forget/rouge_l_recall, retain/exact_match, retain/rouge_l_recall"
    assert f"aggregate: left out, there is no {parts}" in found.warnings


@pytest.mark.parametrize(
    "bad",
    [
        {"max_new_tokens": 0},
        {"max_batch_tokens": 0},
        {"mia_k": 0.0},
        {"mia_k": 1.5},
        {"bootstrap": -1},
        {"confidence": 1.0},
        {"aggregate_mia": "zlib", "attacks": ("loss",)},
        {"attacks": ("min_k", "guess")},
        {"aggregate_em": "choice_accuracy", "choice_scorer": "none"},
    ],
)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(FieldError):
        TofuEvaluator(**bad)

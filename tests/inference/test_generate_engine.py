"""The engine around the drafts: passes saved, early stops, limits, near-ties, strict mode, going on after a kill."""

import json

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

import simu.inference.decoding as engine
from simu.inference.decoding import Work
from simu.inference.generate import generate
from simu.inference.ties import choose
from simu.types import UserError

EOS = 2
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [20, 21], [22], [23, 24, 25, 26], [30, 31, 32], [40]]


class Numbers:
    """A tokenizer of numbers."""

    pad_token_id, eos_token_id = 0, EOS

    def decode(self, ids, skip_special_tokens=True, clean_up_tokenization_spaces=False):
        return " ".join(str(i) for i in ids if i > EOS or not skip_special_tokens)


def llama(seed=0, limit=128):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=limit,
            eos_token_id=EOS,
            bos_token_id=1,
            pad_token_id=0,
        )
    ).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p *= 4
        model.lm_head.weight[EOS] *= 2
    return model


@pytest.fixture(scope="module")
def model():
    return llama()


def run(model, prompts=PROMPTS, new=30, budget=200, **more):
    return generate(model, Numbers(), prompts, max_new_tokens=new, max_batch_tokens=budget, **more)


def spoken(found):
    return [[*g.ids] + [EOS] * g.finished for g in found]


def test_known_answers_cost_one_pass(model, official):
    official_ids = official(model, PROMPTS, 30)
    work = Work()
    found = run(model, references=official_ids, budget=1000, work=work)
    assert spoken(found) == official_ids
    assert (work.passes, work.decisions) == (1, sum(map(len, official_ids)))


def test_no_prompts(model):
    assert run(model, prompts=[]) == []


def test_one_new_token(model, official):
    official_ids = official(model, PROMPTS, 1)
    assert spoken(run(model, new=1, references=official_ids)) == spoken(run(model, new=1)) == official_ids


def test_order_and_company_of_rows_do_not_matter(model):
    together = run(model)
    backwards = run(model, prompts=PROMPTS[::-1], budget=70)
    assert together == backwards[::-1] == [g for p in PROMPTS for g in run(model, prompts=[p])]


def test_the_checkpoints_own_generation_config_adds_nothing_but_its_eos(model):
    plain = run(model, strict=True)
    third = plain[0].ids[2]
    own = model.generation_config
    model.generation_config = GenerationConfig(
        repetition_penalty=5.0, do_sample=True, temperature=9.0, eos_token_id=[EOS, third], no_repeat_ngram_size=1
    )
    try:
        strict, fast = run(model, strict=True), run(model)
    finally:
        model.generation_config = own
    assert strict == fast
    for whole, cut in zip(plain, strict, strict=True):
        at = whole.ids.index(third) if third in whole.ids else len(whole.ids)
        assert cut.ids == whole.ids[:at]
        assert cut.finished == (whole.finished or at < len(whole.ids))


def test_context_ends_a_row_after_as_many_tokens_as_the_model_can_read(official):
    small = llama(limit=12)
    found = run(small, prompts=[[5, 6, 7], [5] * 12, [8]], new=30, references=[[9] * 40, [9], []])
    official_ids = official(small, [[5, 6, 7]], 10) + official(small, [[5] * 12], 1) + official(small, [[8]], 12)
    assert spoken(found) == official_ids


@pytest.mark.parametrize(
    ("prompts", "more", "message"),
    [
        ([[5], []], {}, "prompt 1: 0 tokens, allowed is 1 to 128"),
        ([[5] * 129], {}, "prompt 0: 129 tokens, allowed is 1 to 128"),
        ([[5]], {"references": [[6], [7]]}, "references: 2 of them for 1 prompts"),
        ([[5]], {"stop_when_wrong": True}, "stop_when_wrong: needs references"),
    ],
)
def test_mistakes_are_named(model, prompts, more, message):
    with pytest.raises(UserError, match=message):
        run(model, prompts=prompts, **more)


# Stopping early


def test_stop_when_wrong_stops_wrong_rows_only_and_agrees_on_equality(model, official):
    official_ids = official(model, PROMPTS, 30)
    references = [list(ids) for ids in official_ids]
    for i in (1, 2, 5):
        references[i][len(references[i]) // 2] = 59
    whole, work = run(model, references=references), Work()
    stopped = run(model, references=references, stop_when_wrong=True, work=work)
    for i, (a, b) in enumerate(zip(whole, stopped, strict=True)):
        text = Numbers().decode([t for t in references[i] if t != EOS])
        assert (a.text == text) == (b.text == text)
        if i in (1, 2, 5):
            assert b.truncated
            assert not b.finished
            assert a.ids[: len(b.ids)] == b.ids
            assert len(b.ids) < len(a.ids)
        else:
            assert a == b
    assert work.passes <= 3  # every wrong row is known to be wrong after the pass that verifies its reference
    some = run(model, references=references, stop_when_wrong=[i == 2 for i in range(len(PROMPTS))])
    assert [g.truncated for g in some] == [i == 2 for i in range(len(PROMPTS))]


# Near ties


def test_choose_marks_leads_within_rounding():
    eps = 2.0**-23
    logits = torch.tensor([[1.0, 8.0, 3.0], [8.0, 8.0 - 2.0**-17, 0.0], [8.0, 7.9, -100.0], [5.0, 5.0, 5.0]])
    chosen, close = choose(logits, 64 * eps)
    assert chosen == [1, 0, 0, 0]
    assert close == [False, True, False, True]
    assert choose(logits, None)[1] == [False] * 4


def test_a_near_tie_that_fell_the_other_way_is_put_right(model, monkeypatch, official):
    """Make every choice that leads by less than 0.3 fall wrong: re-verification has to restore the text."""
    official_ids = official(model, PROMPTS, 30)

    def flipped(logits, doubt):
        top = logits.topk(2, dim=-1)
        close = top.values[:, 0] - top.values[:, 1] < 0.3
        return torch.where(close, top.indices[:, 1], top.indices[:, 0]).tolist(), close.tolist()

    monkeypatch.setattr(engine, "choose", flipped)
    for references in (None, official_ids):
        work = Work()
        assert spoken(run(model, references=references, work=work)) == official_ids
        assert 0 < work.changed <= work.doubtful < len(PROMPTS) + 1


def test_exact_ties_are_decided_as_transformers_does(official):
    tied = llama()
    with torch.no_grad():
        tied.lm_head.weight[30:] = tied.lm_head.weight[:30]  # token n and n + 30 are always equally likely
    official_ids = official(tied, PROMPTS, 30)
    work = Work()
    assert spoken(run(tied, references=official_ids, work=work)) == official_ids
    assert work.doubtful == len(PROMPTS)


def test_half_precision_is_not_re_verified(model):
    work = Work()
    run(llama().bfloat16(), work=work)
    assert work.doubtful == 0


def test_a_diverged_model_is_no_slower(official):
    gone = llama()
    with torch.no_grad():
        gone.lm_head.weight.fill_(torch.nan)
    work = Work()
    assert spoken(run(gone, new=8, work=work)) == official(gone, PROMPTS, 8)
    assert work.passes < work.decisions / 3


# Strict


def test_strict_runs_half_precision_weights_in_float32_and_gives_them_back(official):
    half = llama().bfloat16()
    before = {n: t.clone() for n, t in half.state_dict().items()}
    wide = llama().bfloat16().float()
    work = Work()
    found = run(half, strict=True, references=[[5]] * len(PROMPTS), work=work)
    assert spoken(found) == official(wide, PROMPTS, 30)
    assert work.passes == work.decisions  # no drafts
    for name, tensor in half.state_dict().items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, before[name])


# Going on after a kill


class Killed(Exception):
    pass


def kill_after(model, passes):
    left = [passes]

    def hook(*_):
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return model.register_forward_pre_hook(hook)


@pytest.mark.parametrize("more", [{}, {"references": "half"}, {"strict": True}])
def test_a_killed_call_goes_on_with_what_it_had(model, tmp_path, monkeypatch, more, official):
    monkeypatch.setattr(engine, "SINGLE_ROWS", 2)
    official_ids = official(model, PROMPTS, 30)
    if "references" in more:
        more = {"references": [ids[: len(ids) // 2] for ids in official_ids]}
    expected, whole = run(model, budget=32, **more), Work()
    run(model, budget=32, work=whole, **more)
    handle = kill_after(model, whole.passes * 3 // 4)
    with pytest.raises(Killed):
        run(model, budget=32, checkpoint=tmp_path, **more)
    handle.remove()
    assert list(tmp_path.rglob("*.jsonl"))
    rest = Work()
    assert run(model, budget=32, checkpoint=tmp_path, work=rest, **more) == expected
    assert rest.passes < whole.passes
    again = Work()
    assert run(model, budget=32, checkpoint=tmp_path, work=again, **more) == expected
    assert again.passes == 0
    assert not list(tmp_path.rglob(".*"))


def test_a_torn_or_altered_batch_is_computed_again(model, tmp_path, caplog):
    expected = run(model, checkpoint=tmp_path)
    (path,) = tmp_path.rglob("*.jsonl")
    text = path.read_text()
    other = text.replace('"ids": [', '"ids": [1', 1)  # another token, as one bit makes it
    for damage in (text[: len(text) // 2], "", text.replace('"ids": [', '"ids": ["x", '), other, "[]\n", "\n7\n"):
        path.write_text(damage)
        assert run(model, checkpoint=tmp_path) == expected
        assert "not a finished batch" in caplog.text
        caplog.clear()
        assert path.read_text() == text


def test_another_call_does_not_use_the_batches(model, tmp_path):
    run(model, checkpoint=tmp_path)
    assert run(model, new=7, checkpoint=tmp_path) == run(model, new=7)
    assert run(model, prompts=PROMPTS[1:], checkpoint=tmp_path) == run(model, prompts=PROMPTS[1:])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_kept_batch_is_plain_json_lines(model, tmp_path):
    found = run(model, checkpoint=tmp_path)
    (path,) = tmp_path.rglob("*.jsonl")
    rows = sorted(map(json.loads, path.read_text().splitlines()), key=lambda r: r["row"])
    assert [r["ids"] for r in rows] == [list(g.ids) for g in found]


def test_model_is_left_in_the_mode_it_was_in(model):
    model.train()
    run(model)
    assert model.training
    model.eval()

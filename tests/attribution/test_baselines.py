"""The two baselines, and rows made into batches for any attribution."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from simu.attribution import Activation, Gradient, Integrated, attribution_batches, count_samples, neuron_attribution
from simu.fields import knobs
from simu.types import Example, Template


@pytest.fixture
def llama(reference):
    return reference.model("llama", **reference.small)


@pytest.fixture
def batch(reference):
    return {**reference.batch([(3, 4), (2, 6)]), "group": torch.tensor([1, 0])}


def test_gradient_times_activation_by_autograd(llama, batch, reference):
    """Row by row, token by token, with nothing of the engine: β · ∂ log P / ∂β at the predicting position."""
    expected = torch.zeros(3, 16, dtype=torch.float64)
    for b in range(2):
        n = int(batch["attention_mask"][b].sum())
        for t in (t for t in range(1, n) if batch["labels"][b, t] != -100):
            seen: list[torch.Tensor] = []
            hooks = [m.register_forward_hook(lambda _, __, out, s=seen: s.append(out)) for m in reference.down(llama)]
            logits = llama(input_ids=batch["input_ids"][b : b + 1, :t]).logits[0, -1]
            for hook in hooks:
                hook.remove()
            grads = torch.autograd.grad(torch.log_softmax(logits, -1)[batch["input_ids"][b, t]], seen)
            for layer, (out, grad) in enumerate(zip(seen, grads, strict=True)):
                expected[layer] += (out * grad)[0, -1].detach()
    assert reference.error(Gradient()(llama, [batch]).double(), expected) < 1e-6


def test_gradient_switches_do_something(llama, batch, reference):
    plain = Gradient()(llama, [batch])
    for other in (Gradient(objective="prob"), Gradient(position="sequence"), Gradient(reduction="absolute")):
        assert reference.error(other(llama, [batch]), plain) > 1e-3


def test_what_is_marked_as_a_knob_changes_nothing(llama, batch):
    """And no memory setting is marked: another cut of the rows rounds otherwise."""
    assert knobs(Integrated) == frozenset()
    others = {"m": 7, "objective": "prob", "position": "sequence"}
    for component, expected in ((Gradient, {"m"}), (Activation, {"m", "objective", "position"})):
        assert knobs(component) == expected
        plain = component()(llama, [batch])
        for name in expected:
            assert torch.equal(component(**{name: others[name]})(llama, [batch]), plain)


def test_activation_by_hand(llama, batch, reference):
    seen = []
    hook = reference.down(llama)[1].register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    llama(input_ids=batch["input_ids"])
    hook.remove()
    first = seen[0][0, 2:6].abs().sum(0)  # 3 + 4 tokens: predicted at 2..5
    second = seen[0][1, 1:7].abs().sum(0)
    assert reference.error(Activation()(llama, [batch])[1].double(), first + second) < 1e-6


@pytest.fixture
def tokenizer():
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    text = "Q who is it A Ann wrote books in Rome ?"
    words.train_from_iterator([text], trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>", "</s>"]))
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


EXAMPLES = [
    Example(id="1", prompt="who is it", answer="Ann", group="x"),
    Example(id="2", prompt="who wrote books in Rome ?", answer="Ann wrote books", group="y"),
    Example(id="3", prompt="who ?", answer="Ann", group="x"),
]


def test_batches_are_sorted_groups_and_marks_the_template(tokenizer):
    template = Template(prompt="Q {prompt} A")
    batches, names = attribution_batches(tokenizer, template, EXAMPLES, batch_size=2, tokens="template")
    assert names == ["x", "y"]
    assert [b["input_ids"].shape for b in batches] == [(2, 12), (1, 6)]
    assert [b["group"].tolist() for b in batches] == [[1, 0], [0]]
    ids = {w: tokenizer.convert_tokens_to_ids(w) for w in ("Q", "A")}
    for b in batches:
        assert torch.equal(b["template"].bool(), (b["input_ids"] == ids["Q"]) | (b["input_ids"] == ids["A"]))
    assert count_samples(batches) == 2 + 4 + 2  # answers and EOS
    assert count_samples(batches, "template") == 8 + 3  # and "A"; nothing predicts the opening "Q"
    assert "template" not in attribution_batches(tokenizer, template, EXAMPLES, batch_size=2)[0][0]


def test_template_tags_follow_a_cut_prompt(tokenizer):
    batches, _ = attribution_batches(
        tokenizer, Template(prompt="Q {prompt} A"), EXAMPLES[1:2], batch_size=1, max_length=7, tokens="template"
    )
    kept = tokenizer.convert_ids_to_tokens(batches[0]["input_ids"][0].tolist())
    assert kept[:6] == ["wrote", "books", "in", "Rome", "?", "A"]
    assert batches[0]["template"][0].tolist() == [0, 0, 0, 0, 0, 1, 0]


def test_made_batches_run_through_every_attribution(tokenizer, reference):
    model = reference.model("llama", **reference.small)
    batches, names = attribution_batches(
        tokenizer, Template(prompt="Q {prompt} A"), EXAMPLES, batch_size=2, tokens="template"
    )
    for attribution in (Integrated(m=2), Integrated(m=2, tokens="template"), Gradient(), Activation()):
        scores = attribution(model, batches)
        assert (scores.shape, scores.dtype) == ((3, 16), torch.float32)
    for tokens in ("answer", "template"):
        by_group = neuron_attribution(model, batches, m=2, tokens=tokens, groups=len(names))
        assert by_group.shape == (2, 3, 16)
        assert reference.error(by_group.sum(0), neuron_attribution(model, batches, m=2, tokens=tokens)) < 1e-5

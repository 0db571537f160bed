"""Draft bookkeeping: what a pass keeps, what n-gram lookup guesses, when a row is settled, how wide a pass is."""

import itertools

import pytest

from simu.inference.drafts import NGRAMS, WIDTHS, Row, best_width, settled

EOS = frozenset({1})


def row(prompt=(9, 8, 7), reference=(), budget=50, ids=()):
    return Row(index=0, prompt=list(prompt), reference=list(reference), budget=budget, ids=list(ids))


@pytest.mark.parametrize(
    ("draft", "chosen", "ids", "finished"),
    [
        ([], [5], [5], False),
        ([5, 6], [5, 6, 7], [5, 6, 7], False),  # all right: the token behind is a gift
        ([5, 6], [5, 4, 7], [5, 4], False),  # the model's own choice stands where the draft went wrong
        ([5, 6], [4, 6, 7], [4], False),
        ([5, 6], [5, 6, 1], [5, 6], True),  # EOS ends and is not kept
        ([5, 6], [5, 1, 7], [5], True),  # … also where the draft would have gone on
        ([], [1], [], True),
    ],
)
def test_accept(draft, chosen, ids, finished):
    r = row()
    r.accept(draft, chosen, [False] * len(chosen), EOS)
    assert (r.ids, r.finished, r.done) == (ids, finished, finished)
    assert r.decisions == len(ids) + finished


def test_budget_ends_a_row_and_eos_within_it_finishes_it():
    full = row(budget=2)
    full.accept([5, 6, 7], [5, 6, 7, 1], [False] * 4, EOS)
    assert (full.ids, full.done, full.finished) == ([5, 6], True, False)
    last = row(budget=3)
    last.accept([5, 6], [5, 6, 1], [False] * 3, EOS)
    assert (last.ids, last.finished) == ([5, 6], True)


def test_doubt_is_the_last_close_choice_that_counts():
    r = row(ids=[3])
    r.accept([5, 6, 7], [5, 6, 4, 9], [False, True, False, True], EOS)  # the fourth is behind the mistake
    assert r.ids == [3, 5, 6, 4]
    assert r.doubt == 3
    r.accept([], [1], [True], EOS)
    assert r.doubt == 5
    assert r.decisions == 5


def test_guess_continues_a_loop_for_as_long_as_asked():
    assert row(ids=[4, 5, 4, 5, 4, 5]).guess(7) == [4, 5, 4, 5, 4, 5, 4]
    assert row(ids=[4, 4, 4, 4]).guess(5) == [4] * 5


def test_guess_returns_to_the_reference_and_copies_from_the_prompt():
    reference = [20, 21, 22, 23, 24]
    assert row(reference=reference, ids=[20, 99, 22, 23]).guess(9)[:1] == [24]
    assert row(prompt=[30, 31, 32, 33], ids=[70, 31, 32]).guess(9)[0] == 33
    assert row(reference=reference).guess(3) == [20, 21, 22]  # the prompt's end is followed by the reference


def test_guess_prefers_the_rows_own_output_and_the_longer_ngram():
    r = row(reference=[5, 6, 7], ids=[5, 6, 8, 5, 6])
    assert r.guess(1) == [8]
    r = row(ids=[1, 5, 6, 8, 2, 5, 6, 9, 1, 5, 6])
    assert r.guess(1) == [8]


def test_guess_never_exceeds_limit_or_budget():
    assert row(ids=[4, 4, 4, 4], budget=7).guess(30) == [4, 4]
    assert row(ids=[4, 4, 4, 4], budget=5).guess(30) == []
    assert row(ids=[4, 4, 4, 4]).guess(0) == []
    assert row(ids=[4, 5, 6]).guess(5) == []  # nothing stood before


def test_guess_equals_a_search_of_the_whole_text():
    """Brute force: the latest earlier place of the final 3-gram, else of the final 2-gram."""
    pattern = [3, 4, 3, 4, 4, 3, 5, 3, 4, 3, 4, 4, 3, 3, 4, 3]
    r = row(prompt=[3, 4, 5], reference=[4, 4, 5, 3])
    for token in pattern:
        text = [*r.prompt, *r.reference, *r.prompt[-max(NGRAMS) :], *r.ids]
        expected = []
        for n in NGRAMS:
            places = [e for e in range(n, len(text)) if text[e - n : e] == text[-n:]]
            if places:
                expected = list(itertools.islice(itertools.cycle(text[places[-1] :]), 4))
                break
        assert r.guess(4) == expected
        r.ids.append(token)


def looping(trust=0.5):
    r = row(ids=[4, 5, 4, 5, 4, 5])
    r.trust = trust
    return r, r.guess(3)


def test_trust_rises_with_right_and_falls_with_wrong_guesses():
    good, guess = looping()
    good.accept(guess, [*guess, 4], [False] * 4, EOS)
    assert good.trust == pytest.approx(1 - 0.5 * 0.8**3)  # three right: the distance to 1 shrinks by a fifth each time
    bad, guess = looping()
    bad.accept(guess, [9, 9, 9, 9], [False] * 4, EOS)
    assert bad.trust == pytest.approx(0.5 * 0.8)  # one wrong; what stands behind it was never judged
    half, guess = looping()
    half.accept(guess, [guess[0], 9, 9, 9], [False] * 4, EOS)
    assert half.trust == pytest.approx((0.5 + 0.5 * 0.2) * 0.8)


def test_trust_learns_from_guesses_that_were_not_fed():
    """Otherwise a row that once lost trust would never be given a draft again."""
    r, guess = looping(trust=0.1)
    r.accept([], [guess[0]], [False], EOS)
    assert r.trust == pytest.approx(0.1 + 0.9 * 0.2)
    before = r.trust
    r.accept([], [7], [False], EOS)  # no guess was made
    assert r.trust == before


def test_width_follows_trust_and_cost():
    assert best_width([(0.9, 0), (0.9, 0)], 32) == 1  # nothing guessed
    assert best_width([(1.0, 31)], 32) == max(WIDTHS)
    assert best_width([(0.0, 31)] * 40, 32) == 1
    assert best_width([(0.5, 31)] * 100, 1) == 1  # tokens are dear: half of the guesses would be waste
    assert best_width([(0.6, 31)] * 100, 1, row_cost=5) > 1  # … unless a row costs much whatever it is given
    wide = best_width([(0.5, 31)] * 4, 1000)  # tokens are almost free
    assert 4 <= wide <= 16


@pytest.mark.parametrize(
    ("text", "reference", "is_settled"),
    [
        ("", "Ann Lee", False),
        ("ann l", " Ann Lee", False),
        ("Ann Lee", "Ann Lee", False),
        ("Ann  lee", "ann LEE ", False),
        ("Ann Lee.", "Ann Lee", True),
        ("Bob", "Ann Lee", True),
        ("Jos\ufffd", "José", False),  # the first byte of é
        ("ΟΔΟΣ", "ΟΔΟΣΑ", False),  # lower case of Σ depends on what follows
        ("(555 ) 1", "(555) 123", False),  # a tokenizer's clean-up may take white space back
        ("Zoe", "Zo\u00eb K.", False),  # its accent may still come
        ("Zoe\u0308 K", "Zo\u00eb K.", False),
        ("Zoe K", "Zo\u00eb K.", True),
        ("a\u0307", "a\u0323\u0307", False),  # an accent that stands before it may still come
    ],
)
def test_settled(text, reference, is_settled):
    assert settled(text, reference) is is_settled

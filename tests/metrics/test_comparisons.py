"""Comparisons of predictions: against scipy and scikit-learn, and what must hold of any
predictions.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import jensenshannon
from support import probabilities

from lib.metrics import comparisons, predictions
from lib.metrics.estimate import MeasureError


def test_kl_from_uniform_is_scipys(logits):
    uniform = np.full(7, 1 / 7)
    expected = [[stats.entropy(uniform, row) for row in member] for member in probabilities(logits)]
    torch.testing.assert_close(predictions.kl_uniform(logits.double()), torch.tensor(expected))


def test_kl_from_uniform_is_zero_where_all_classes_are_alike():
    torch.testing.assert_close(predictions.kl_uniform(torch.full((3, 10), 5.0)), torch.zeros(3))


def test_kl_and_jensen_shannon_are_scipys(logits):
    p = probabilities(logits)
    kl, js = comparisons.kl_matrix(logits), comparisons.js_matrix(logits)
    for i in range(5):
        for j in range(5):
            assert kl[i, j].item() == pytest.approx(
                stats.entropy(p[i], p[j], axis=-1).mean(), rel=1e-9, abs=1e-12
            )
            assert js[i, j].item() == pytest.approx(
                (jensenshannon(p[i], p[j], axis=-1) ** 2).mean(), rel=1e-9, abs=1e-12
            )


def test_divergences_do_not_depend_on_the_chunk(logits, monkeypatch):
    whole = [
        measure(logits)
        for measure in (comparisons.kl_matrix, comparisons.js_matrix, comparisons.ensemble)
    ]
    monkeypatch.setattr(comparisons, "NUMBERS", 100)
    for expected, measure in zip(
        whole, (comparisons.kl_matrix, comparisons.js_matrix, comparisons.ensemble), strict=True
    ):
        torch.testing.assert_close(measure(logits), expected)


def test_a_network_does_not_diverge_from_itself(logits):
    twins = torch.stack([logits[4], logits[4]])
    assert comparisons.kl_matrix(twins).abs().max() < 1e-12
    assert comparisons.js_matrix(twins).abs().max() < 1e-12


def test_jensen_shannon_is_symmetric_and_bounded(logits):
    js = comparisons.js_matrix(logits)
    torch.testing.assert_close(js, js.T)
    assert js.max() <= math.log(2)


def test_opposite_certainties_have_the_largest_jensen_shannon():
    sure = 1000.0 * torch.eye(2).unsqueeze(1)  # two networks, each certain of another class
    assert comparisons.js_matrix(sure)[0, 1].item() == pytest.approx(math.log(2))
    assert comparisons.kl_matrix(sure)[0, 1].item() == pytest.approx(
        1000.0
    )  # no infinity from an underflow


def test_ensemble_is_the_mean_of_probabilities(logits, labels):
    expected = probabilities(logits).mean(0)
    log_p = comparisons.ensemble(logits)
    np.testing.assert_allclose(log_p.exp().numpy(), expected, rtol=1e-10)
    assert comparisons.accuracy(log_p, labels).item() == np.mean(
        expected.argmax(-1) == labels.numpy()
    )


def test_disagreement_counts_examples_of_other_classes(logits):
    a, b = logits[1].argmax(-1).numpy(), logits[2].argmax(-1).numpy()
    assert comparisons.disagreement(logits[1], logits[2]) == np.mean(a != b)


def test_class_numbers_and_logits_say_the_same(logits):
    chosen = logits.argmax(-1)
    assert comparisons.disagreement(logits[0], logits[3]) == comparisons.disagreement(
        chosen[0], chosen[3]
    )


def test_a_network_agrees_with_itself(logits):
    assert comparisons.disagreement(logits[2], logits[2]) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: comparisons.kl_matrix(torch.zeros(3, 4)), "a set of networks"),
        (lambda: comparisons.js_matrix(torch.zeros(2, 0, 4)), "none zero"),
        (
            lambda: comparisons.ensemble(torch.tensor([[[0.0, 1.0]], [[0.0, math.nan]]])),
            "network 1 of 2",
        ),
        (lambda: comparisons.disagreement(torch.zeros(3, 4), torch.zeros(2, 4)), "same examples"),
        (lambda: comparisons.disagreement(torch.zeros(0, 4), torch.zeros(0, 4)), "and some"),
        (lambda: comparisons.accuracy(torch.zeros(2, 4), torch.tensor([0, 4])), "labels hold 4"),
        (lambda: comparisons.accuracy(torch.zeros(2, 4), torch.tensor([0])), "for 2 examples"),
        (
            lambda: comparisons.accuracy(torch.zeros(2, 4), torch.tensor([0, -1])),
            "labels hold -1",
        ),
    ],
)
def test_what_cannot_be_compared_is_named(call, message):
    with pytest.raises(MeasureError, match=message):
        call()


def test_the_divergence_of_all_at_once(logits):
    """By definition; of two networks it is their entry in the matrix; twins count as one."""
    p = probabilities(logits)
    expected = (stats.entropy(p.mean(0), axis=-1) - stats.entropy(p, axis=-1).mean(0)).mean()
    assert comparisons.js_all(logits) == pytest.approx(expected, rel=1e-9)
    assert comparisons.js_all(logits[3:]) == pytest.approx(
        comparisons.js_matrix(logits)[3, 4].item(), rel=1e-9
    )
    assert comparisons.js_all(torch.stack([logits[2]] * 3)) < 1e-12
    assert comparisons.js_all(1000.0 * torch.eye(5).unsqueeze(1)) == pytest.approx(math.log(5))

"""The linear probe against scikit-learn's regressions."""

import jax.numpy as jnp
import numpy as np
from classification_cases import save_model
from sklearn.linear_model import LogisticRegression, Ridge

from balora_jax import models
from balora_jax.objective.linear_probe import fit_head


def _features(seed=0, examples=120, classes=3):
    """(features [examples, 32], labels [examples]): one cluster a class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, examples)
    noise = random.normal(size=(examples, 32))
    centers = random.normal(size=(classes, 32))
    return (noise + centers[labels]).astype(np.float32), labels


def test_the_probe_is_logistic_regression(tmp_path):
    save_model("bert", tmp_path, with_head=True, num_labels=3)
    model, base = models.load_pretrained(tmp_path, task="sequence-classification")
    features, labels = _features()
    head = fit_head(
        model, {"classifier": base["classifier"]}, features, jnp.asarray(labels), regression=False
    )
    expected = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(
        features.astype(np.float64), labels
    )
    np.testing.assert_allclose(head["classifier"]["kernel"].T, expected.coef_, atol=2e-3)


def test_the_probe_of_scores_is_ridge_regression(tmp_path):
    save_model("bert", tmp_path, with_head=True, num_labels=1)
    model, base = models.load_pretrained(tmp_path, task="sequence-classification")
    features, labels = _features()
    scores = (labels + features[:, 0]).astype(np.float32)
    head = fit_head(
        model, {"classifier": base["classifier"]}, features, jnp.asarray(scores), regression=True
    )
    expected = Ridge(alpha=0.5).fit(features.astype(np.float64), scores)
    np.testing.assert_allclose(head["classifier"]["kernel"][:, 0], expected.coef_, atol=2e-3)
    np.testing.assert_allclose(head["classifier"]["bias"], expected.intercept_, atol=2e-3)


def test_both_layers_of_a_head_are_fitted(tmp_path):
    save_model("roberta", tmp_path, with_head=True, num_labels=3)
    model, base = models.load_pretrained(tmp_path, task="sequence-classification")
    features, labels = _features()
    head = fit_head(
        model, {"classifier": base["classifier"]}, features, jnp.asarray(labels), regression=False
    )

    def accuracy(head):
        logits = model.apply({"params": head}, features, method="classify")
        return np.mean(logits.argmax(-1) == labels)

    assert accuracy(head) > 0.95 > accuracy({"classifier": base["classifier"]})

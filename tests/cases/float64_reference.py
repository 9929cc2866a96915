"""An independent reference of the method's formulas: float64 numpy, gradients by hand.

Each function returns (value, gradient with respect to the student's logits).
"""

import numpy as np


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(z):
    shifted = z - z.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _scatter(rows, mask, shape):
    """`rows` at the counted positions, zeros elsewhere."""
    full = np.zeros(shape)
    full[mask] = rows
    return full


def cross_entropy(z, targets, mask):
    rows = z[mask].astype(np.float64)
    target_entries = np.arange(len(rows)), targets[mask]
    grad = softmax(rows)
    grad[target_entries] -= 1
    return -log_softmax(rows)[target_entries].mean(), _scatter(grad / len(rows), mask, z.shape)


def consistency(z, teacher, mask, temperature):
    rows = z[mask].astype(np.float64)
    teacher_rows = teacher[mask].astype(np.float64)
    p = softmax(teacher_rows / temperature)
    q = softmax(rows / temperature)
    kl = (p * (log_softmax(teacher_rows / temperature) - log_softmax(rows / temperature))).sum(-1)
    grad = temperature * (q - p) / len(rows)
    return temperature**2 * kl.mean(), _scatter(grad, mask, z.shape)


def entropies(z):
    """The entropy of each row's softmax, in nats; no gradient."""
    return -(softmax(z) * log_softmax(z)).sum(-1)


def diversity(z, mask, top_k):
    rows = z[mask].astype(np.float64)
    keep = rows.shape[-1] if top_k is None else min(top_k, rows.shape[-1])
    order = np.argsort(-rows, axis=-1, kind="stable")[:, :keep]
    top = np.take_along_axis(rows, order, -1)
    h = entropies(top)
    grad = np.zeros_like(rows)
    np.put_along_axis(grad, order, softmax(top) * (log_softmax(top) + h[:, None]) / len(rows), -1)
    return -h.mean(), _scatter(grad, mask, z.shape)


def svd(z, mask, k, norm):
    rows = z[mask].astype(np.float64)
    value, grad = _leading_share(rows, k, norm)
    return value, _scatter(grad, mask, z.shape)


def _leading_share(rows, k, norm):
    """Minus the share of the k leading singular values in the norm, and its gradient."""
    u, s, vt = np.linalg.svd(rows, full_matrices=False)
    k = min(k, len(s))
    # Directions that are zero to the rounding of float32 inputs get no part of U V^T.
    real = s > 1e-6 * s[0]
    top_grad = (u[:, :k] * real[:k]) @ vt[:k]
    if norm == "frobenius":
        whole = np.linalg.norm(rows)
        whole_grad = rows / whole
    else:
        whole = s.sum()
        whole_grad = (u * real) @ vt
    share = s[:k].sum() / whole
    return -share, -(top_grad - share * whole_grad) / whole


def nlu_consistency_kl(z, teacher, temperature):
    return consistency(z, teacher, np.ones(len(z), bool), temperature)


def nlu_consistency_mse(z, teacher):
    size = np.linalg.norm(z, axis=-1, keepdims=True)
    unit = z / size
    teacher_unit = teacher / np.linalg.norm(teacher, axis=-1, keepdims=True)
    value = ((unit - teacher_unit) ** 2).mean()
    unit_grad = 2 * (unit - teacher_unit) / z.size
    grad = (unit_grad - unit * (unit * unit_grad).sum(-1, keepdims=True)) / size
    return value, grad


def nlu_diversity(z):
    n, d = z.shape
    centered = z - z.mean(0)
    c = centered.T @ centered / (n - 1)
    off = c - np.diag(np.diag(c))
    return (off**2).sum() / d, 4 * centered @ off / (n - 1) / d


def nlu_svd(z, k):
    return _leading_share(z.astype(np.float64), k, "nuclear")

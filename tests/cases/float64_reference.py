"""The method's formulas again, in float64 numpy, with gradients by hand: what the package is compared with.

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
    full = np.zeros(shape)
    full[mask] = rows
    return full


def cross_entropy(z, targets, mask):
    rows, aims = z[mask].astype(np.float64), targets[mask]
    picked = np.arange(len(rows)), aims
    grad = softmax(rows)
    grad[picked] -= 1
    return -log_softmax(rows)[picked].mean(), _scatter(grad / len(rows), mask, z.shape)


def consistency(z, teacher, mask, temperature):
    rows, aims = z[mask].astype(np.float64), teacher[mask].astype(np.float64)
    p, q = softmax(aims / temperature), softmax(rows / temperature)
    kl = (p * (log_softmax(aims / temperature) - log_softmax(rows / temperature))).sum(-1)
    grad = temperature * (q - p) / len(rows)
    return temperature**2 * kl.mean(), _scatter(grad, mask, z.shape)


def entropies(z):
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
    u, s, vt = np.linalg.svd(rows, full_matrices=False)
    k = min(k, len(s))
    # Directions that are zero to the rounding of float32 inputs get no part of the subgradient U V^T.
    real = s > 1e-6 * s[0]
    top_grad = (u[:, :k] * real[:k]) @ vt[:k]
    if norm == "frobenius":
        whole, whole_grad = np.linalg.norm(rows), rows / np.linalg.norm(rows)
    else:
        whole, whole_grad = s.sum(), (u * real) @ vt
    share = s[:k].sum() / whole
    return -share, -(top_grad - share * whole_grad) / whole


def nlu_consistency_kl(z, teacher, temperature):
    return consistency(z, teacher, np.ones(len(z), bool), temperature)


def nlu_consistency_mse(z, teacher):
    size = np.linalg.norm(z, axis=-1, keepdims=True)
    unit, aim = z / size, teacher / np.linalg.norm(teacher, axis=-1, keepdims=True)
    pull = 2 * (unit - aim) / z.size
    return ((unit - aim) ** 2).mean(), (pull - unit * (unit * pull).sum(-1, keepdims=True)) / size


def nlu_diversity(z):
    n, d = z.shape
    centered = z - z.mean(0)
    c = centered.T @ centered / (n - 1)
    off = c - np.diag(np.diag(c))
    return (off**2).sum() / d, 4 * centered @ off / (n - 1) / d


def nlu_svd(z, k):
    return _leading_share(z.astype(np.float64), k, "nuclear")

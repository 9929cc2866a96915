"""The findings of an audit in the model cards of its runs."""

import pathlib

from balora_jax.evaluation.statistics import Interval
from balora_jax.reporting.audit_section import audit_section, with_audit
from balora_jax.reporting.model_card import CARD_FILE, read_card
from balora_jax.runs.audit.classifier import ClassifierFindings
from balora_jax.runs.audit.language_model import EXACT, LOSS, Findings
from balora_jax.training.replacing import write_whole
from balora_jax.training.run_folder import RunFolder

TEXT = (
    "General text: {passages} passages, {tokens:,} tokens. These numbers say nothing about other "
    "texts, and not whether a change is knowledge or style; the page of the audit has the passages."
)
CLASSIFIER_TEXT = (
    "On {texts} held-out texts; before is the untouched model with the head of step 0. These "
    "numbers say nothing about other texts."
)
# The title of a measure, and its value before and after.
Row = tuple[str, str, str]


def add_to_card(folder: RunFolder, findings: Findings | ClassifierFindings) -> pathlib.Path | None:
    """Add the findings on a run to the card of its adapter, if that is of the same update.

    Args:
      folder: the run's.
      findings: of the run.

    Returns:
      The path of the card; None where no card is of that update.
    """
    path = folder.adapter / CARD_FILE
    card = read_card(path, findings.step)
    if card is None:
        return None
    write_whole(path, with_audit(card, _section(findings)))
    return path


def _section(findings: Findings | ClassifierFindings) -> str:
    if isinstance(findings, ClassifierFindings):
        text = CLASSIFIER_TEXT.format(texts=findings.texts)
        return audit_section(findings.step, text, _classifier_rows(findings))
    drift = findings.drift
    text = TEXT.format(passages=drift.passages, tokens=drift.tokens)
    return audit_section(findings.step, text, _rows(findings))


def _classifier_rows(findings: ClassifierFindings) -> list[Row]:
    before = findings.base_balance
    after = findings.balance
    rows = [("accuracy", _shown(before.accuracy), _shown(after.accuracy))]
    for number, name in enumerate(after.classes):
        title = f"predicted as {name}, right {after.right[number]:.3f}"
        rows.append((title, _shown(before.predicted[number]), _shown(after.predicted[number])))
    return [
        *rows,
        ("entropy of predictions, nats", _shown(findings.base_entropy), _shown(findings.entropy)),
        ("effective rank of features", f"{findings.base_rank:.1f}", f"{findings.rank:.1f}"),
        ("distance of features (1 - cosine)", "0", _shown(findings.drift.distance)),
        *_noise_rows(findings),
    ]


def _rows(findings: Findings) -> list[Row]:
    drift = findings.drift
    rows = [
        ("KL to the base, nats a token", "0", _shown(drift.forward)),
        ("same likeliest token", "1", _shown(drift.agreement)),
        ("perplexity", f"{drift.perplexity_before:.2f}", f"{drift.perplexity_after:.2f}"),
        (
            "entropy of predictions, nats",
            f"{drift.entropy_before.value:.3f}",
            _shown(drift.entropy_after),
        ),
        (
            "effective rank of hidden states",
            f"{findings.base_ranks.hidden:.1f}",
            f"{findings.ranks.hidden:.1f}",
        ),
    ]
    rows += _noise_rows(findings)
    if findings.curve is not None:
        points = {point.scale: point.measures for point in findings.curve.points}
        for name in (LOSS, EXACT):
            if name in points[0.0]:
                rows.append((name, f"{points[0.0][name]:.4f}", f"{points[1.0][name]:.4f}"))
    return rows


def _noise_rows(findings: Findings | ClassifierFindings) -> list[Row]:
    noise = findings.noise
    if noise.memorized is None:
        return []
    title = f"known-wrong answers said, of {noise.wrong}"
    return [(title, _shown(noise.memorized_before), _shown(noise.memorized))]


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"

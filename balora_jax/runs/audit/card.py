"""The findings of an audit in the model cards of its runs."""

import pathlib

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


def add_to_card(
    folder: RunFolder, findings: Findings | ClassifierFindings, inputs: str
) -> pathlib.Path | None:
    """Add the findings on a run to the card of its adapter, if that is of the same update.

    Args:
      folder: the run's.
      findings: of the run.
      inputs: a sentence on the texts that were read.

    Returns:
      The path of the card; None where no card is of that update.
    """
    path = folder.adapter / CARD_FILE
    card = read_card(path, findings.step)
    if card is None:
        return None
    write_whole(path, with_audit(card, _section(findings, inputs)))
    return path


def _section(findings: Findings | ClassifierFindings, inputs: str) -> str:
    if isinstance(findings, ClassifierFindings):
        text = f"{CLASSIFIER_TEXT.format(texts=findings.texts)} {inputs}"
        return audit_section(findings.step, text, _classifier_rows(findings))
    drift = findings.drift
    text = f"{TEXT.format(passages=drift.passages, tokens=drift.tokens)} {inputs}"
    return audit_section(findings.step, text, _rows(findings))


def _classifier_rows(findings: ClassifierFindings) -> list[Row]:
    before = findings.before
    after = findings.after
    rows = [("accuracy", before.balance.accuracy.text(), after.balance.accuracy.text())]
    for number, name in enumerate(after.balance.classes):
        title = f"predicted as {name}, right {after.balance.right[number]:.3f}"
        shares = (before.balance.predicted[number], after.balance.predicted[number])
        rows.append((title, *(share.text() for share in shares)))
    return [
        *rows,
        ("entropy of predictions, nats", before.entropy.text(), after.entropy.text()),
        ("effective rank of features", f"{before.rank:.1f}", f"{after.rank:.1f}"),
        ("distance of features (1 - cosine)", "0", findings.drift.distance.text()),
        *_noise_rows(findings),
    ]


def _rows(findings: Findings) -> list[Row]:
    drift = findings.drift
    rows = [
        ("KL to the base, nats a token", "0", drift.forward.text()),
        ("same likeliest token", "1", drift.agreement.text()),
        ("perplexity", f"{drift.perplexity_before:.2f}", f"{drift.perplexity_after:.2f}"),
        (
            "entropy of predictions, nats",
            f"{drift.entropy_before.value:.3f}",
            drift.entropy_after.text(),
        ),
        (
            "effective rank of hidden states",
            f"{findings.before.ranks.hidden:.1f}",
            f"{findings.after.ranks.hidden:.1f}",
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
    return [(title, noise.memorized_before.text(), noise.memorized.text())]

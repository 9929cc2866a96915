"""The findings of an audit in the model cards of its runs."""

import pathlib

from balora_jax.evaluation.statistics import Interval
from balora_jax.reporting.audit_section import audit_section, with_audit
from balora_jax.reporting.model_card import CARD_FILE, is_of_step
from balora_jax.runs.audit.language_model import EXACT, LOSS, Findings
from balora_jax.training.replacing import write_whole
from balora_jax.training.run_folder import RunFolder

TEXT = (
    "General text: {passages} passages, {tokens:,} tokens. These numbers say nothing about other "
    "texts, and not whether a change is knowledge or style; the page of the audit has the passages."
)


def add_to_card(folder: RunFolder, findings: Findings) -> pathlib.Path | None:
    """Add the findings on a run to the card of its adapter, if that is of the same update.

    Args:
      folder: the run's.
      findings: of the run.

    Returns:
      The path of the card; None where no card is of that update.
    """
    path = folder.adapter / CARD_FILE
    if not path.is_file():
        return None
    card = path.read_text(encoding="utf-8")
    if not is_of_step(card, findings.step):
        return None
    write_whole(path, with_audit(card, _section(findings)))
    return path


def _section(findings: Findings) -> str:
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
    if findings.noise.memorized is not None:
        known = f"known-wrong answers said, of {findings.noise.wrong}"
        shares = (findings.noise.memorized_before, findings.noise.memorized)
        rows.append((known, *map(_shown, shares)))
    if findings.curve is not None:
        points = {point.scale: point.measures for point in findings.curve.points}
        for name in (LOSS, EXACT):
            if name in points[0.0]:
                rows.append((name, f"{points[0.0][name]:.4f}", f"{points[1.0][name]:.4f}"))
    text = TEXT.format(passages=drift.passages, tokens=drift.tokens)
    return audit_section(findings.step, text, rows)


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"

"""The page of an audit: three questions, a number for each run, and how sure it is."""

from collections.abc import Sequence

from balora_jax.evaluation.inheritance.classes import ClassBalance
from balora_jax.evaluation.statistics import Interval
from balora_jax.evaluation.tiny_world.probes import TITLES
from balora_jax.reporting.page import Passage, Passages, Picture, Section, Table, render
from balora_jax.runs.audit import texts
from balora_jax.runs.audit.classifier import ClassifierFindings
from balora_jax.runs.audit.language_model import Findings
from balora_jax.runs.audit.pictures import layers_picture, rewind_picture, separation_picture

# The page's own writer, by whom it may be replaced.
WRITER = "balora audit"
# Sections on what both kinds of runs have.
AnyFindings = Findings | ClassifierFindings


def audit_page(source: str, findings: Sequence[AnyFindings]) -> str:
    """Render the page.

    Args:
      source: the name of the base model.
      findings: of each run; all of language models, or all of classifiers.

    Returns:
      The HTML.
    """
    count = "One run" if len(findings) == 1 else f"{len(findings)} runs"
    if isinstance(findings[0], ClassifierFindings):
        first = [_moved(findings), _predicted(findings), _classifier_collapse(findings)]
        intro = texts.CLASSIFIER_INTRO
    else:
        first = [_drift(findings), _collapse(findings)]
        intro = texts.INTRO
    sections = [*first, _noise(findings), _change(findings), _rewind(findings)]
    if findings[0].gaps:
        sections.append(_templates(findings))
    if any(getattr(finding, "world", None) for finding in findings):
        sections.append(_world(findings))
    intro = intro.format(count=count, source=source)
    return render("What did fine-tuning inherit?", intro, tuple(sections), WRITER)


def _moved(findings: Sequence[ClassifierFindings]) -> Section:
    rows = tuple(
        (
            f"{finding.name} ({finding.method}, step {finding.step})",
            _shown(finding.drift.distance),
            f"{finding.drift.alignment:.3f}",
        )
        for finding in findings
    )
    header = ("run", "1 - cosine", "CKA")
    text = texts.MOVED.format(texts=findings[0].texts)
    return Section("Drift of the encoder", text, (Table(header, rows),))


def _predicted(findings: Sequence[ClassifierFindings]) -> Section:
    balances = [("step 0", findings[0].base_balance)]
    balances += [(finding.name, finding.balance) for finding in findings]
    return Section("Predicted classes", texts.PREDICTED, (_balance_table(balances),))


def _balance_table(balances: Sequence[tuple[str, ClassBalance]]) -> Table:
    """The shares of predicted classes of each model, beside the right ones."""
    _, first = balances[0]
    rows = [("right", *(f"{share:.3f}" for share in first.right), "", "")]
    rows += [
        (
            name,
            *(_shown(share) for share in balance.predicted),
            f"{balance.entropy:.3f}",
            _shown(balance.accuracy),
        )
        for name, balance in balances
    ]
    header = ("predicted by", *first.classes, "entropy of the shares, nats", "accuracy")
    return Table(header, tuple(rows))


def _classifier_collapse(findings: Sequence[ClassifierFindings]) -> Section:
    first = findings[0]
    rows = [("step 0", _shown(first.base_entropy), f"{first.base_rank:.1f}")]
    rows += [(finding.name, _shown(finding.entropy), f"{finding.rank:.1f}") for finding in findings]
    header = ("model", "entropy of predictions, nats", "effective rank of the head's inputs")
    parts = (Table(header, tuple(rows)), *_separation(findings))
    return Section("Representation collapse", texts.CLASSIFIER_COLLAPSE, parts)


def _drift(findings: Sequence[Findings]) -> Section:
    rows = []
    opened = []
    for finding in findings:
        drift = finding.drift
        rows.append(
            (
                f"{finding.name} ({finding.method}, step {finding.step})",
                _shown(drift.forward),
                _shown(drift.backward),
                _shown(drift.agreement),
                f"{drift.perplexity_before:.2f} → {drift.perplexity_after:.2f}",
                _shown(drift.forgetting, sign=True),
            )
        )
        opened.append(_most_changed(finding))
    header = (
        "run", "KL(base || run)", "KL(run || base)", "same likeliest token", "perplexity",
        "forgetting, nats",
    )  # fmt: skip
    first = findings[0].drift
    text = texts.DRIFT.format(passages=first.passages, tokens=first.tokens)
    return Section("Knowledge drift", text, (Table(header, tuple(rows)), *opened))


def _most_changed(finding: Findings) -> Passages:
    """The passages that one run reads most differently."""
    items = [
        Passage(
            f"{rank}: KL {passage.divergence:.3f}, "
            f"loss {passage.loss_before:.3f} → {passage.loss_after:.3f}",
            passage.text,
        )
        for rank, passage in enumerate(finding.drift.most_changed, start=1)
    ]
    return Passages(f"{finding.name}: the passages that changed most", tuple(items))


def _collapse(findings: Sequence[Findings]) -> Section:
    first = findings[0]
    rows = [
        (
            "base",
            f"{first.drift.entropy_before.value:.3f}",
            f"{first.base_ranks.hidden:.1f}",
            f"{first.base_ranks.logits:.1f}",
        )
    ]
    rows += [
        (
            finding.name,
            _shown(finding.drift.entropy_after),
            f"{finding.ranks.hidden:.1f}",
            f"{finding.ranks.logits:.1f}",
        )
        for finding in findings
    ]
    header = ("model", "entropy, nats", "effective rank of hidden states", "of logits")
    parts = [Table(header, tuple(rows))]
    known = [finding for finding in findings if finding.balance is not None]
    if known:
        balances = [("base", known[0].base_balance)]
        balances += [(finding.name, finding.balance) for finding in known]
        parts.append(_balance_table(balances))
    parts += _separation(findings)
    return Section("Representation collapse", texts.COLLAPSE, tuple(parts))


def _separation(findings: Sequence[AnyFindings]) -> tuple[Table | Picture, ...]:
    """The silhouettes and pictures of the runs whose held-out answers form classes."""
    known = [finding for finding in findings if finding.separation is not None]
    if not known:
        return ()
    first = known[0].base_separation
    separations = [("base", first)]
    separations += [(finding.name, finding.separation) for finding in known]
    rows = tuple((name, _shown(separation.silhouette)) for name, separation in separations)
    note = f"Of {len(first.labels)} held-out examples of {len(first.classes)} classes."
    return Table(("model", "silhouette"), rows, note), separation_picture(separations)


def _noise(findings: Sequence[AnyFindings]) -> Section:
    rows = []
    opened = []
    for finding in findings:
        noise = finding.noise
        if noise.memorized is not None:
            shares = (noise.memorized_before, noise.memorized)
            rows.append((finding.name, str(noise.wrong), *(_shown(share) for share in shares)))
        items = [
            Passage(f"loss {suspect.loss_before:.3f} → {suspect.loss_after:.3f}", text)
            for suspect, text in zip(noise.suspects, finding.suspects, strict=True)
        ]
        opened.append(Passages(f"{finding.name}: answers that may be wrong", tuple(items)))
    header = ("run", "known-wrong answers", "said by the base", "said by the run")
    tables = (Table(header, tuple(rows)),) if rows else ()
    is_classifier = isinstance(findings[0], ClassifierFindings)
    text = texts.CLASSIFIER_NOISE if is_classifier else texts.NOISE
    return Section("Noise fitting", text, (*tables, *opened))


def _change(findings: Sequence[AnyFindings]) -> Section:
    changed = [finding for finding in findings if finding.geometry is not None]
    if not changed:
        return Section("The change", "These runs trained every weight: there is no adapter.")
    rows = []
    for finding in changed:
        geometry = finding.geometry
        tested = sum(layer.tested for layer in geometry.by_layer())
        undecided = f", {geometry.undecided} undecided" if geometry.undecided else ""
        rows.append(
            (
                finding.name,
                f"{geometry.relative:.4f}",
                f"{geometry.input_share:.3f}",
                f"{geometry.output_share:.3f}",
                f"{geometry.intruders} of {tested}{undecided}",
            )
        )
    header = (
        "run", "norm / base's", "share in leading inputs", "in leading outputs",
        "intruder dimensions",
    )  # fmt: skip
    text = texts.CHANGE.format(epsilon=changed[0].geometry.epsilon)
    parts = (Table(header, tuple(rows)), layers_picture(changed))
    return Section("The change", text, parts)


def _rewind(findings: Sequence[AnyFindings]) -> Section:
    curves = [finding for finding in findings if finding.curve is not None]
    if not curves:
        return Section("The rewind curve", "These runs trained every weight: there is no adapter.")
    names = list(curves[0].curve.points[0].measures)
    rows = []
    for finding in curves:
        for point in finding.curve.points:
            best = " ← suggested" if point == finding.best else ""
            values = [f"{point.measures[name]:.4f}" for name in names if name in point.measures]
            rows.append((f"{finding.name} × {point.scale:g}{best}", *values))
    parts = (rewind_picture(curves, names), Table(("run × scale", *names), tuple(rows)))
    return Section("The rewind curve", texts.REWIND, parts)


def _templates(findings: Sequence[AnyFindings]) -> Section:
    base = findings[0].base_gaps
    rows = tuple(
        (name, _shown(base[name]), *(_shown(finding.gaps[name]) for finding in findings))
        for name in base
    )
    header = ("measure", "base", *(finding.name for finding in findings))
    return Section("Templates", texts.TEMPLATE, (Table(header, rows),))


def _world(findings: Sequence[Findings]) -> Section:
    known = [finding for finding in findings if finding.world]
    rows = []
    for name, title in TITLES.items():
        before = known[0].base_world[name]
        planted = ""
        if before.planted is not None:
            low, high = before.interval
            planted = f"{before.planted:.2f} ({low:.3f} to {high:.3f})"
        after = [f"{finding.world[name].value:.3f}" for finding in known]
        rows.append((title.strip(), planted, f"{before.value:.3f}", *after))
    header = ("measure", "planted", "base", *(finding.name for finding in known))
    return Section("Known answers", texts.WORLD, (Table(header, tuple(rows)),))


def _shown(interval: Interval, *, sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    value, low, high = (format(x, form) for x in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"

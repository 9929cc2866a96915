"""The page of an audit: three questions, a number for each run, and how sure it is."""

from collections.abc import Sequence

from balora_jax.evaluation.inheritance.classes import ClassBalance
from balora_jax.evaluation.tiny_world.probes import TITLES
from balora_jax.reporting.page import Passage, Passages, Picture, Section, Table, render
from balora_jax.runs.audit import texts
from balora_jax.runs.audit.classifier import ClassifierFindings, ClassifierState
from balora_jax.runs.audit.language_model import Findings, State
from balora_jax.runs.audit.pictures import layers_picture, rewind_picture, separation_picture

# The page's own writer, by whom it may be replaced.
WRITER = "balora audit"
# Sections on what both kinds of runs have.
AnyFindings = Findings | ClassifierFindings


def audit_page(source: str, inputs: str, findings: Sequence[AnyFindings]) -> str:
    """Render the page.

    Args:
      source: the name of the base model.
      inputs: a sentence on the texts that were read.
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
    if findings[0].after.gaps:
        sections.append(_templates(findings))
    if isinstance(findings[0], Findings) and all(finding.after.world for finding in findings):
        sections.append(_world(findings))
    intro = f"{intro.format(count=count, source=source)} {inputs}"
    return render("What did fine-tuning inherit?", intro, tuple(sections), WRITER)


def _moved(findings: Sequence[ClassifierFindings]) -> Section:
    rows = tuple(
        (
            f"{finding.name} ({finding.method}, step {finding.step})",
            finding.drift.distance.text(),
            f"{finding.drift.alignment:.3f}",
        )
        for finding in findings
    )
    header = ("run", "1 - cosine", "CKA")
    text = texts.MOVED.format(texts=findings[0].texts)
    return Section("Drift of the encoder", text, (Table(header, rows),))


def _predicted(findings: Sequence[ClassifierFindings]) -> Section:
    balances = [(name, state.balance) for name, state in _states(findings)]
    return Section("Predicted classes", texts.PREDICTED, (_balance_table(balances),))


def _states(findings: Sequence[AnyFindings]) -> list[tuple[str, State | ClassifierState]]:
    """The states before and after each run; the base once, where it is the same of all runs.

    Classifiers begin with heads of their own.
    """
    bases = [finding.before for finding in findings]
    title = "step 0" if isinstance(findings[0], ClassifierFindings) else "base"
    states = [(title, bases[0])]
    if any(base != bases[0] for base in bases):
        states = [(f"{finding.name}, {title}", finding.before) for finding in findings]
    return states + [(finding.name, finding.after) for finding in findings]


def _balance_table(balances: Sequence[tuple[str, ClassBalance]]) -> Table:
    """The shares of predicted classes of each model, beside the right ones."""
    _, first = balances[0]
    rows = [("right", *(f"{share:.3f}" for share in first.right), "", "")]
    rows += [
        (
            name,
            *(share.text() for share in balance.predicted),
            f"{balance.entropy:.3f}",
            balance.accuracy.text(),
        )
        for name, balance in balances
    ]
    header = ("predicted by", *first.classes, "entropy of the shares, nats", "accuracy")
    return Table(header, tuple(rows))


def _classifier_collapse(findings: Sequence[ClassifierFindings]) -> Section:
    rows = [(name, state.entropy.text(), f"{state.rank:.1f}") for name, state in _states(findings)]
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
                drift.forward.text(),
                drift.backward.text(),
                drift.agreement.text(),
                f"{drift.perplexity_before:.2f} → {drift.perplexity_after:.2f}",
                drift.forgetting.text(sign=True),
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
    entropies = [findings[0].drift.entropy_before.text()]
    entropies += [finding.drift.entropy_after.text() for finding in findings]
    states = _states(findings)
    rows = [
        (name, entropy, f"{state.ranks.hidden:.1f}", f"{state.ranks.logits:.1f}")
        for (name, state), entropy in zip(states, entropies, strict=True)
    ]
    header = ("model", "entropy, nats", "effective rank of hidden states", "of logits")
    parts = [Table(header, tuple(rows))]
    if all(state.balance is not None for _, state in states):
        parts.append(_balance_table([(name, state.balance) for name, state in states]))
    parts += _separation(findings)
    return Section("Representation collapse", texts.COLLAPSE, tuple(parts))


def _separation(findings: Sequence[AnyFindings]) -> tuple[Table | Picture, ...]:
    """The silhouettes and pictures of the models, where held-out answers form classes."""
    states = _states(findings)
    if any(state.separation is None for _, state in states):
        return ()
    separations = [(name, state.separation) for name, state in states]
    _, first = separations[0]
    rows = tuple((name, separation.silhouette.text()) for name, separation in separations)
    note = f"Of {len(first.labels)} held-out examples of {len(first.classes)} classes."
    return Table(("model", "silhouette"), rows, note), separation_picture(separations)


def _noise(findings: Sequence[AnyFindings]) -> Section:
    rows = []
    opened = []
    for finding in findings:
        noise = finding.noise
        if noise.memorized is not None:
            shares = (noise.memorized_before, noise.memorized)
            rows.append((finding.name, str(noise.wrong), *(share.text() for share in shares)))
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
                f"{geometry.intruders} of {tested} directions{undecided}",
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
    is_classifier = isinstance(findings[0], ClassifierFindings)
    held_out = findings[0].texts if is_classifier else findings[0].held_out
    details = texts.TRAINED_HEAD if is_classifier else ""
    if held_out:
        details += texts.HELD_OUT.format(held_out=held_out)
    return Section("The rewind curve", texts.REWIND.format(details=details), parts)


def _templates(findings: Sequence[AnyFindings]) -> Section:
    states = _states(findings)
    _, first = states[0]
    rows = tuple((name, *(state.gaps[name].text() for _, state in states)) for name in first.gaps)
    header = ("measure", *(name for name, _ in states))
    return Section("Templates", texts.TEMPLATE, (Table(header, rows),))


def _world(findings: Sequence[Findings]) -> Section:
    states = _states(findings)
    _, base = states[0]
    rows = []
    for name, title in TITLES.items():
        planted = ""
        if base.world[name].planted is not None:
            low, high = base.world[name].interval
            planted = f"{base.world[name].planted:.2f} ({low:.3f} to {high:.3f})"
        values = [f"{state.world[name].value:.3f}" for _, state in states]
        rows.append((title.strip(), planted, *values))
    header = ("measure", "planted", *(name for name, _ in states))
    return Section("Known answers", texts.WORLD, (Table(header, tuple(rows)),))

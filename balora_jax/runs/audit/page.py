"""The page of an audit: three questions, a number for each run, and how sure it is."""

from collections.abc import Sequence

from balora_jax.evaluation.statistics import Interval
from balora_jax.evaluation.tiny_world.probes import TITLES
from balora_jax.reporting.page import Passage, Passages, Picture, Section, Table, render
from balora_jax.runs.audit.language_model import Findings
from balora_jax.runs.audit.pictures import layers_picture, rewind_picture, separation_picture

INTRO = (
    "{count} of {source}, beside the model as it was. Values in parentheses are 95 % intervals "
    "over passages or items; they say nothing about other texts."
)
DRIFT_TEXT = (
    "How differently does each run read general text ({passages} passages, {tokens:,} tokens)? "
    "KL(base || run) is 0 only if every prediction is the same. Forgetting is the change of the "
    "loss on that text: above 0, the text is less expected than before. Neither can say whether "
    "knowledge or style has changed: read the passages."
)
COLLAPSE_TEXT = (
    "How many directions does each model use on the general text? The effective rank is the "
    "exponential of the entropy of the singular values, over tokens; it depends on the text, and "
    "is for comparing models on it. A fall of entropy and ranks together points to collapse; "
    "neither alone does. "
    "The silhouette says how far apart the last hidden states keep prompts with different answers: "
    "1 in tight groups, 0 where they overlap, below 0 among those of another answer. Groups that "
    "drift apart are what training is for; groups that shrink to points lose what else they told."
)
CHANGE_TEXT = (
    "Where does the change lie, and does it follow the directions of the base? The share is the "
    "part of its squared norm in as many leading directions of the base as it has itself; of a "
    "random change nearly nothing is there. Intruder dimensions are leading directions of the "
    "changed kernels that lie near none of the base (cosine below {epsilon}); with many of them, "
    "models have been found to forget more (arXiv 2410.21228). Undecided ones need more of the "
    "base's directions than were computed. A small norm is no proof of a small effect."
)
NOISE_TEXT = (
    "Has a run learned wrong answers by heart? Rows of the training set with a field truth tell "
    "which answers are wrong; the share is of those whose every token is the likeliest. Below are "
    "the training examples that neither the base nor training explains: wrong answers are among "
    "them, and rare right ones."
)
REWIND_TEXT = (
    "What if only a part of the change is kept? Scale 0 is the base, 1 the run. The suggested "
    "scale has the least drift among those that keep nine tenths of the gain in right answers (in "
    "held-out loss, where no whole answer is ever right); "
    "balora export --run DIR --scale S --out DIR2 keeps it."
)
TEMPLATE_TEXT = (
    "The user's own templates. A gap by itself is no bias: words have frequencies. The change from "
    "the base is what fine-tuning did."
)
WORLD_TEXT = (
    "This is a tiny world, in which every defect is planted and known: the planted share, and the "
    "interval in which a model that learned it exactly would be measured."
)


def audit_page(source: str, findings: Sequence[Findings]) -> str:
    """Render the page.

    Args:
      source: the name of the base model.
      findings: of each run, `balora_jax.runs.audit.Findings`.

    Returns:
      The HTML.
    """
    count = "One run" if len(findings) == 1 else f"{len(findings)} runs"
    sections = [
        _drift(findings),
        _collapse(findings),
        _noise(findings),
        _change(findings),
        _rewind(findings),
    ]
    if findings[0].gaps:
        sections.append(_templates(findings))
    if any(finding.world for finding in findings):
        sections.append(_world(findings))
    intro = INTRO.format(count=count, source=source)
    return render("What did fine-tuning inherit?", intro, tuple(sections))


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
                f"{drift.entropy_before.value:.3f} → {drift.entropy_after.value:.3f}",
            )
        )
        opened.append(_most_changed(finding))
    header = (
        "run", "KL(base || run)", "KL(run || base)", "same likeliest token", "perplexity",
        "forgetting, nats", "entropy, nats",
    )  # fmt: skip
    first = findings[0].drift
    text = DRIFT_TEXT.format(passages=first.passages, tokens=first.tokens)
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
    parts = (Table(header, tuple(rows)), *_separation(findings))
    return Section("Representation collapse", COLLAPSE_TEXT, parts)


def _separation(findings: Sequence[Findings]) -> tuple[Table | Picture, ...]:
    """The silhouettes and pictures of the runs whose held-out answers form classes."""
    known = [finding for finding in findings if finding.separation is not None]
    if not known:
        return ()
    first = known[0].base_separation
    separations = [("base", first)]
    separations += [(finding.name, finding.separation) for finding in known]
    rows = tuple((name, _shown(separation.silhouette)) for name, separation in separations)
    note = f"Of {len(first.labels)} held-out prompts, by their {len(first.classes)} answers."
    return Table(("model", "silhouette"), rows, note), separation_picture(separations)


def _noise(findings: Sequence[Findings]) -> Section:
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
    return Section("Noise fitting", NOISE_TEXT, (*tables, *opened))


def _change(findings: Sequence[Findings]) -> Section:
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
    text = CHANGE_TEXT.format(epsilon=changed[0].geometry.epsilon)
    parts = (Table(header, tuple(rows)), layers_picture(changed))
    return Section("The change", text, parts)


def _rewind(findings: Sequence[Findings]) -> Section:
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
    return Section("The rewind curve", REWIND_TEXT, parts)


def _templates(findings: Sequence[Findings]) -> Section:
    base = findings[0].base_gaps
    rows = tuple(
        (name, _shown(base[name]), *(_shown(finding.gaps[name]) for finding in findings))
        for name in base
    )
    header = ("measure", "base", *(finding.name for finding in findings))
    return Section("Templates", TEMPLATE_TEXT, (Table(header, rows),))


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
    return Section("Known answers", WORLD_TEXT, (Table(header, tuple(rows)),))


def _shown(interval: Interval, *, sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    value, low, high = (format(x, form) for x in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"

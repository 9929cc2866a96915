"""The pictures of an audit's page."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from balora_jax.evaluation.inheritance.separation import Separation
from balora_jax.reporting.page import Picture, draw
from balora_jax.runs.audit.language_model import Findings

PANEL = (4, 3)
# Panels in a row; of more, the text of a picture as wide as a window could not be read.
COLUMNS = 3


def rewind_picture(findings: Sequence[Findings], names: Sequence[str]) -> Picture:
    """Draw every measure of the rewind curves against the part of the change that is kept.

    Args:
      findings: of runs with a curve.
      names: the measures.
    """
    figure, panels = _panels(len(names))
    for axes, name in zip(panels, names, strict=True):
        for finding in findings:
            points = finding.curve.points
            values = [point.measures[name] for point in points]
            axes.plot([point.scale for point in points], values, marker="o", label=finding.name)
        axes.set_xlabel("part of the change")
        axes.set_title(name)
    panels[0].legend()
    return _picture(figure, f"{' and '.join(names)} against the part of the change kept.")


def layers_picture(findings: Sequence[Findings]) -> Picture:
    """Draw the size of the change and its intruder dimensions by layer.

    Args:
      findings: of runs with a geometry.
    """
    figure, (sizes, intruders) = _panels(2)
    for finding in findings:
        layers = [layer for layer in finding.geometry.by_layer() if layer.layer is not None]
        numbers = [layer.layer for layer in layers]
        sizes.plot(numbers, [layer.relative for layer in layers], marker="o", label=finding.name)
        intruders.plot(numbers, [layer.intruders for layer in layers], marker="o")
    for axes in (sizes, intruders):
        axes.set_xlabel("layer")
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
    if not any(finding.geometry.intruders for finding in findings):
        intruders.set_ylim(0, 1)
    sizes.set_title("norm of the change / of the base")
    intruders.set_title("intruder dimensions")
    sizes.legend()
    return _picture(figure, "The relative norm of the change and its intruders, by layer.")


def separation_picture(separations: Sequence[tuple[str, Separation]]) -> Picture:
    """Draw the hidden states of the classes of each model, by t-SNE.

    Args:
      separations: the name of each model, and the separation of the same classes in it.
    """
    figure, panels = _panels(len(separations))
    for axes, (name, separation) in zip(panels, separations, strict=True):
        labels = np.array(separation.labels)
        points = np.array(separation.points)
        for number, answer in enumerate(separation.classes):
            chosen = points[labels == number]
            # An answer is a model's text: a leading _ would hide it, and $ would be mathematics.
            label = answer[:20].replace("$", r"\$").lstrip("_")
            axes.scatter(chosen[:, 0], chosen[:, 1], s=10, label=label)
        axes.set_title(f"{name}: silhouette {separation.silhouette.value:.2f}")
        axes.set_xticks([])
        axes.set_yticks([])
    panels[0].legend(fontsize="small")
    return _picture(figure, "t-SNE of the last hidden states of held-out examples, by class.")


def _panels(count: int) -> tuple[Figure, list]:
    width, height = PANEL
    # Four are two rows of two, not three and one.
    columns = 2 if count == 4 else min(count, COLUMNS)
    rows = -(-count // columns)
    size = (width * columns, height * rows)
    figure, panels = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for unused in panels.flat[count:]:
        unused.remove()
    return figure, list(panels.flat[:count])


def _picture(figure: Figure, text: str) -> Picture:
    picture = Picture(draw(figure), text)
    plt.close(figure)
    return picture

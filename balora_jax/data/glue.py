"""The table of GLUE tasks: fields, labels and metrics."""

from dataclasses import dataclass

from balora_jax.errors import BadInput

# On the hub; the configurations of this set have the names of the tasks.
HUB_SET = "nyu-mll/glue"
VALIDATION = ("validation",)
# Test sets outside their task's configuration: the diagnostic set is predicted by a model of MNLI.
OTHER_SUBSETS = {"ax": ("ax", "test")}


@dataclass(frozen=True)
class TextTask:
    """Classification of one text or two, or regression to a score.

    Attributes:
      name: the configuration of the hub's set; `data.labels` or `data.scores` for a custom task.
      fields: the field of the text, or of both texts.
      labels: the names of the classes in the order of their numbers; () for scores.
      metrics: the metrics; the first one picks the best checkpoint.
      submission: test split -> the file of its predictions for GLUE's server.
      validation: the held-out splits.
      scores: the lowest and the highest score; None for classes.
      label_field: the field of the label.
      submits_names: True if GLUE's server reads the names of classes, False for their numbers.
    """

    name: str
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    submission: dict[str, str]
    validation: tuple[str, ...] = VALIDATION
    scores: tuple[float, float] | None = None
    label_field: str = "label"
    submits_names: bool = False

    @property
    def outputs(self) -> int:
        """Outputs of the model for an example: one logit for each class, or the score."""
        return len(self.labels) or 1


SENTENCES = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
TASKS = {
    task.name: task
    for task in (
        TextTask(
            "cola",
            ("sentence",),
            ("unacceptable", "acceptable"),
            ("matthews", "accuracy"),
            {"test": "CoLA.tsv"},
        ),
        TextTask(
            "sst2", ("sentence",), ("negative", "positive"), ("accuracy",), {"test": "SST-2.tsv"}
        ),
        TextTask(
            "mrpc",
            SENTENCES,
            ("not_equivalent", "equivalent"),
            ("f1", "accuracy"),
            {"test": "MRPC.tsv"},
        ),
        TextTask(
            "stsb", SENTENCES, (), ("pearson", "spearman"), {"test": "STS-B.tsv"}, scores=(0.0, 5.0)
        ),
        TextTask(
            "qqp",
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            ("f1", "accuracy"),
            {"test": "QQP.tsv"},
        ),
        TextTask(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            ("accuracy",),
            {"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv", "ax": "AX.tsv"},
            validation=("validation_matched", "validation_mismatched"),
            submits_names=True,
        ),
        TextTask(
            "qnli",
            ("question", "sentence"),
            ENTAILMENT,
            ("accuracy",),
            {"test": "QNLI.tsv"},
            submits_names=True,
        ),
        TextTask(
            "rte", SENTENCES, ENTAILMENT, ("accuracy",), {"test": "RTE.tsv"}, submits_names=True
        ),
        TextTask(
            "wnli", SENTENCES, ("not_entailment", "entailment"), ("accuracy",), {"test": "WNLI.tsv"}
        ),
    )
}


def find_task(name: str) -> TextTask:
    """Look up a GLUE task by name.

    Raises:
      BadInput: there is no such task; the message lists the tasks.
    """
    if name not in TASKS:
        raise BadInput(f"there is no task {name!r}; accepted: {', '.join(sorted(TASKS))}")
    return TASKS[name]

"""The GLUE tasks as one table: what they read, what they answer, how they are scored."""

from dataclasses import dataclass

from balora_jax.errors import BadInput

# On the hub; the task's name is the set's configuration.
HUB_SET = "nyu-mll/glue"
VALIDATION = ("validation",)
# Test sets that are not in their task's own configuration: the diagnostic set, answered by a model of MNLI.
OTHER_SUBSETS = {"ax": ("ax", "test")}


@dataclass(frozen=True)
class TextTask:
    """A task that reads one text or two and answers with a class or a score.

    Args:
        name: the hub set's configuration.
        fields: the field of the text, or of both.
        labels: the classes in the order of their numbers; () for a score.
        metrics: what it is judged by, the first one decides.
        submission: the file GLUE's server takes for each test split.
        validation: the held-out splits.
        scores: the lowest and the highest score; None for classes.
        label_field: where the answer is.
        submits_names: whether GLUE's server takes the classes' names, not their numbers.
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
        """Numbers the model gives for an example: one for each class, or the score."""
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
    """The task of that name.

    Raises:
        BadInput: there is none; the message lists those there are.
    """
    if name not in TASKS:
        raise BadInput(f"there is no task {name!r}; accepted: {', '.join(sorted(TASKS))}")
    return TASKS[name]

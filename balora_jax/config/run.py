"""The configuration of one run: all sections, and the checks across sections."""

import dataclasses
import functools
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from balora_jax.config.adapter import AdapterConfig, parse_start, start_spellings
from balora_jax.config.check import require, require_sizes
from balora_jax.config.data import DataConfig
from balora_jax.config.evaluation import EvaluationConfig
from balora_jax.config.mesh import MeshConfig
from balora_jax.config.model import ModelConfig
from balora_jax.config.output import OutputConfig
from balora_jax.config.plugins import PluginFile
from balora_jax.config.regularizers import RegularizersConfig, TermConfig
from balora_jax.config.training import OptimizerConfig, TrainingConfig
from balora_jax.errors import BadInput

Method = Literal["ba-lora", "pissa", "lora", "full"]
# The methods to suggest if a method refuses a start; ba-lora for the starts not listed.
METHODS_OF_STARTS = {"lora": "lora", "pissa": "pissa or ba-lora"}
# Options that only the tasks named have: under any other task they would have no effect.
OF_TASKS = {
    ("causal-lm",): (
        "adapter.modules_to_save",
        "data.template",
        "data.loss_on",
        "data.packing",
        "data.probes",
        "evaluation.probe_text",
        "evaluation.tasks",
    ),
    ("causal-lm", "seq2seq-lm"): (
        "regularizers.diversity.top_k",
        "regularizers.svd.method",
        "regularizers.svd.groups",
    ),
    ("seq2seq-lm", "sequence-classification"): (
        "data.task",
        "data.labels",
        "data.scores",
        "data.eval_ood",
        "data.predict",
    ),
    ("sequence-classification",): (
        "regularizers.consistency.form",
        "regularizers.consistency.teacher_head",
        "model.replace_head",
    ),
}


@dataclass(frozen=True)
class RunConfig:
    """One fine-tuning run."""

    model: ModelConfig
    data: DataConfig
    output: OutputConfig
    training: TrainingConfig
    method: Method = "ba-lora"
    """ba-lora: PiSSA adapters and the three regularizers. pissa, lora: adapters alone. full: every
    weight."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    regularizers: RegularizersConfig = field(default_factory=RegularizersConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    plugins: list[dict[str, str]] = field(default_factory=list)
    """A record, written by a run, of its plugin files and their hashes. Nothing is loaded from
    here: a plugin file is code, and only --plugin FILE.py on the command line loads it."""

    def __post_init__(self) -> None:
        require_sizes(self)
        for plugin in self.plugins:
            accepted = "nothing: a run writes it, with path and sha256"
            require(set(plugin) == {"path", "sha256"}, "plugins", self.plugins, accepted)
        self._check_task_options()
        self._check_data()
        self._check_method()
        self._check_evaluation()
        require(
            self.data.packing is not True or self.model.attention != "cudnn",
            "model.attention",
            self.model.attention,
            "auto, plain, chunked or splash with data.packing true; cuDNN attends to whole rows",
        )
        micro_batch = self.training.batch_size // self.training.accumulation
        groups = self.regularizers.svd.groups
        require(
            micro_batch % groups == 0,
            "regularizers.svd.groups",
            groups,
            f"a divisor of the {micro_batch} examples a micro-batch has",
        )

    def _check_task_options(self) -> None:
        """Check that options of other tasks have their default values."""
        for tasks, names in OF_TASKS.items():
            if self.model.task in tasks:
                continue
            for name in names:
                *sections, option = name.split(".")
                section = functools.reduce(getattr, sections, self)
                value = getattr(section, option)
                default = _default_of(section, option)
                written = default if isinstance(default, str) else json.dumps(default)
                accepted = f"{written} under model.task {self.model.task}"
                require(value == default, name, value, accepted)

    def _check_evaluation(self) -> None:
        """Check that there is what `evaluation.tasks` and `evaluation.probe_text` need."""
        require(
            self.data.holds_out or not self.evaluation.tasks,
            "evaluation.tasks",
            self.evaluation.tasks,
            "with data.eval or data.eval_share, at whose evaluations the tasks are asked",
        )
        if self.evaluation.probe_text is None:
            return
        require(
            self.data.holds_out,
            "evaluation.probe_text",
            self.evaluation.probe_text,
            "with data.eval or data.eval_share, at whose evaluations the text is read",
        )
        require(
            self.method != "full",
            "evaluation.probe_text",
            self.evaluation.probe_text,
            "a method with adapters, which keeps the untouched base (method is full)",
        )

    def _check_data(self) -> None:
        data = self.data
        if self.model.task == "causal-lm":
            require(
                not isinstance(data.eval, list),
                "data.eval",
                data.eval,
                "one set under model.task causal-lm",
            )
        else:
            label_options = ("task", "labels", "scores")
            configured = [name for name in label_options if getattr(data, name) is not None]
            require(
                len(configured) == 1,
                "data.task, data.labels and data.scores",
                configured,
                "exactly one of the three",
            )
        require(
            data.train is not None or data.task is not None,
            "data.train",
            None,
            "a file or a hub name",
        )
        require(
            self.training.patience is None or data.holds_out,
            "training.patience",
            self.training.patience,
            "null, or a number with data.eval to judge by",
        )

    def _check_method(self) -> None:
        if self.model.from_scratch and self.method != "full":
            raise BadInput(
                f"model.from_scratch is true under method {self.method}; accepted: method full"
            )
        require(
            self.adapter.modules_to_save is None or self.method != "full",
            "adapter.modules_to_save",
            self.adapter.modules_to_save,
            "null under method full, which trains every module",
        )
        require(
            self.output.push_to is None or self.method != "full",
            "output.push_to",
            self.output.push_to,
            "nothing under method full, which has no adapter",
        )
        if self.adapter.init is not None and self.method in ("lora", "pissa"):
            self._check_start(self.adapter.init)

    def _check_start(self, init: str) -> None:
        """Check that lora and pissa have their own start, or the folder of a PEFT adapter."""
        parsed = parse_start(init)
        if parsed is None or parsed[0] == self.method:
            return
        accepted = ", ".join(start_spellings(self.method))
        methods = METHODS_OF_STARTS.get(parsed[0], "ba-lora")
        raise BadInput(
            f"adapter.init is {init!r} under method {self.method}; "
            f"accepted: {accepted}, or method {methods}"
        )

    @property
    def plugin_files(self) -> list[PluginFile]:
        """The record of plugin files, as such."""
        return [PluginFile(**plugin) for plugin in self.plugins]

    @property
    def adapter_init(self) -> str:
        """The start of the adapters: adapter.init, or the method's default if that is null."""
        return self.adapter.init or ("lora" if self.method == "lora" else "pissa_niter_16")

    @property
    def acting_terms(self) -> dict[str, TermConfig]:
        """The sections of the terms that act, by name; empty except under method ba-lora."""
        return self.regularizers.acting if self.method == "ba-lora" else {}

    @property
    def groups(self) -> int:
        """Equal parts of a micro-batch that a term sees apart from each other; 1 for none."""
        return self.regularizers.svd.groups if self.method == "ba-lora" else 1

    @property
    def teacher_head(self) -> str:
        """The head that reads the teacher's features in a classifier: initial, student or probe."""
        return self.regularizers.consistency.teacher_head


def _default_of(section: Any, option: str) -> Any:
    described = type(section).__dataclass_fields__[option]
    if described.default is not dataclasses.MISSING:
        return described.default
    return described.default_factory()

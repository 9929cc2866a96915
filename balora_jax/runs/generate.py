"""Text generation from the command line: prompts continued by a run, its base model, or both."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from balora_jax import data, models
from balora_jax.config import RunConfig
from balora_jax.config.generate import GenerateOptions
from balora_jax.config.mesh import MeshConfig
from balora_jax.errors import BadInput, shown
from balora_jax.generation import continuation, generate, pad_prompts, stream, stream_text
from balora_jax.hosts import on_host
from balora_jax.reporting.console import plain_console
from balora_jax.runs.adapter_head import with_adapter
from balora_jax.runs.prompts import Prompt, read_prompts
from balora_jax.runs.reopening import reopen
from balora_jax.runs.results_files import write_new
from balora_jax.runs.weights import load_base
from balora_jax.training.processes import is_first, require_same, together
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.sharding import check_processes, make_mesh
from balora_jax.training.subtrees import update

# The value of --template that leaves prompts as they are.
NO_TEMPLATE = "none"
# That of the tokenizer's own, which writes conversations.
CHAT = "chat"
# The field of --out that has the continuation.
TEXT = "text"


@dataclass(frozen=True)
class PromptedModel:
    """A model with its tokenizer and prompt template.

    Attributes:
      model: the Linen module, a causal language model.
      params: its parameters.
      lora: the `lora` collection; None for the model alone.
      base: the parameters of the model before training.
      tokenizer: the model's tokenizer.
      render: prompt -> the text that the model reads.
      end_ids: the tokens that end an answer: the template's, and those of generation_config.json.
      adds_special_tokens: whether the tokenizer adds the special tokens, not the template.
    """

    model: Any
    params: Any
    lora: Any
    base: Any
    tokenizer: Any
    render: Callable[[str], str]
    end_ids: tuple[int, ...]
    adds_special_tokens: bool

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Render a prompt and return its token ids."""
        if prompt.messages is not None:
            ids = data.prompt_of(self.tokenizer, prompt.messages)
        else:
            rendered = [self.render(prompt.text)]
            encoded = data.token_ids(
                self.tokenizer, rendered, add_special_tokens=self.adds_special_tokens
            )
            ids = encoded["input_ids"][0]
        if not ids:
            raise BadInput(
                f"the template makes an empty text of the prompt {shown(prompt.text)}; accepted: "
                f"--template {NO_TEMPLATE}, or a template with {{instruction}}"
            )
        vocab_size = self.model.config.vocab_size
        if max(ids, default=0) >= vocab_size:
            raise BadInput(
                f"the tokenizer makes token {max(ids)} of a prompt and the model has {vocab_size}; "
                "accepted: the model's own tokenizer"
            )
        return ids


@dataclass(frozen=True)
class PromptBatch:
    """A batch of tokenized prompts.

    Attributes:
      prompts: the prompts, without the template.
      token_ids: the token ids of each prompt.
      input_ids: int32 [prompts, length], padded on the left.
      attention_mask: bool [prompts, length], True at the prompts' tokens.
    """

    prompts: Sequence[Prompt]
    token_ids: list[list[int]]
    input_ids: np.ndarray
    attention_mask: np.ndarray


def generate_texts(options: GenerateOptions, console: Console | None = None) -> None:
    """Continue the prompts and print the continuations to standard output.

    Args:
      options: the model, the prompts and the settings of the draws.
      console: where to print notes; standard error by default.

    Raises:
      BadInput: the folder holds no run, or a prompt is empty or longer than the model's positions.
    """
    console = console or plain_console(stderr=True)
    with together("another process cannot read the prompts"):
        prompts = read_prompts(options)
    require_same({"prompts": prompts})
    if any(prompt.messages is not None for prompt in prompts):
        if options.template not in (None, CHAT):
            raise BadInput(
                f"--template is {shown(options.template)}, and --prompts {options.prompts} has "
                "conversations; accepted: no --template, or chat"
            )
        options = dataclasses.replace(options, template=CHAT)
    prompted = _load_run(options, console) if options.run else _load_model(options)
    _check_lengths(prompted, prompts)
    written = []
    for start in range(0, len(prompts), options.batch_size):
        batch = _make_batch(prompted, prompts[start : start + options.batch_size])
        # Each batch draws with a key of its own.
        key = jax.random.fold_in(jax.random.key(options.seed), start)
        if options.out is not None:
            written += _answered(prompted, batch, options, key)
            console.print(f"{len(written):,} of {len(prompts):,} prompts", highlight=False)
        elif len(prompts) == 1:
            _stream_continuation(prompted, batch, options, key)
        else:
            _print_continuations(prompted, batch, options, key)
    if options.out is not None:
        path = pathlib.Path(options.out).expanduser()
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in written]
        if is_first():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_new("--out", path, "".join(lines))
        print(path)


def _check_lengths(prompted: PromptedModel, prompts: Sequence[Prompt]) -> None:
    """Check that every prompt leaves room for a token, before the first is continued."""
    most = prompted.model.config.max_positions
    for number, prompt in enumerate(prompts, start=1):
        tokens = len(prompted.tokenize(prompt))
        if tokens >= most:
            raise BadInput(
                f"prompt {number} has {tokens} tokens; accepted: fewer than the model's {most} "
                "positions"
            )


def _answered(
    prompted: PromptedModel, batch: PromptBatch, options: GenerateOptions, key: jax.Array
) -> list[dict[str, str]]:
    """Each prompt of a batch with its continuations, as a row of --out."""
    texts = {
        heading or TEXT: _continuations(prompted, batch, weights, options, key)
        for heading, weights in _weights_by_heading(prompted, options).items()
    }
    return [
        {"prompt": prompt.text} | {name: found[index] for name, found in texts.items()}
        for index, prompt in enumerate(batch.prompts)
    ]


def _load_run(options: GenerateOptions, console: Console) -> PromptedModel:
    """Load a run's model with its adapters, its tokenizer and its prompt template."""
    folder = RunFolder(options.run)
    config = _with_devices(folder.read_config(), options)
    if config.model.task != "causal-lm":
        raise BadInput(
            f"--run {folder.address} is of model.task {config.model.task}; "
            "accepted: a run of causal-lm"
        )
    student, state, step = reopen(folder, config, options.checkpoint)
    if not folder.summary.exists():
        console.print(
            f"{folder.address} has not ended: using its checkpoint of step {step}",
            highlight=False,
            soft_wrap=True,
        )
    params = student.params(state).base
    lora = None if config.method == "full" else student.delta_lora(state)
    template = options.template or config.data.template
    tokenizer = data.load_tokenizer(config.model.tokenizer_source, config.model.revision)
    ends = models.end_ids(config.model.source, config.model.revision)
    base = student.base_params(state)
    return _with_template(student.model, params, lora, base, tokenizer, template, ends)


def _with_devices(config: RunConfig, options: GenerateOptions) -> RunConfig:
    """The configuration of a run with the element type and the devices that are asked for."""
    if options.dtype is not None:
        model = dataclasses.replace(config.model, dtype=options.dtype)
        training = dataclasses.replace(config.training, precision=options.dtype)
        config = dataclasses.replace(config, model=model, training=training)
    asked = {"fsdp": options.fsdp, "tensor": options.tensor}
    asked = {axis: size for axis, size in asked.items() if size is not None}
    if asked:
        mesh = dataclasses.replace(config.mesh, **{"data": 1, "auto": False, **asked})
        # Refuses what the devices lack; a run's own mesh would give way.
        check_processes(make_mesh(mesh))
        config = dataclasses.replace(config, mesh=mesh)
    return config


def _load_model(options: GenerateOptions) -> PromptedModel:
    """Load the model of --model with the adapter of --adapter, if any, and its tokenizer."""
    # On several hosts each has a part.
    fsdp = options.fsdp or (-1 if options.mesh.joins else 1)
    mesh = make_mesh(MeshConfig(data=1, fsdp=fsdp, tensor=options.tensor or 1))
    check_processes(mesh)
    loaded = load_base(options.model, options.dtype or "float32", mesh)
    lora = None
    if options.adapter is not None:
        loaded, lora = with_adapter(loaded, pathlib.Path(options.adapter).expanduser())
    base = update(loaded.params, loaded.pretrained or {})
    tokenizer = data.load_tokenizer(options.model)
    template = options.template or NO_TEMPLATE
    ends = models.end_ids(options.model)
    return _with_template(loaded.model, loaded.params, lora, base, tokenizer, template, ends)


def _with_template(
    model: Any,
    params: Any,
    lora: Any,
    base: Any,
    tokenizer: Any,
    template_name: str,
    ends: tuple[int, ...],
) -> PromptedModel:
    """Join a model with a prompt template, named as by --template, and further tokens that end."""
    if template_name == NO_TEMPLATE:
        return PromptedModel(
            model,
            params,
            lora,
            base,
            tokenizer,
            render=lambda prompt: prompt,
            end_ids=(*([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]), *ends),
            adds_special_tokens=True,
        )
    template = data.make_template(template_name, tokenizer)
    return PromptedModel(
        model,
        params,
        lora,
        base,
        tokenizer,
        render=lambda prompt: template.render({"instruction": prompt}),
        end_ids=(*template.ending[:1], *ends),
        adds_special_tokens=template.adds_special_tokens,
    )


def _make_batch(prompted: PromptedModel, prompts: Sequence[Prompt]) -> PromptBatch:
    token_ids = [prompted.tokenize(prompt) for prompt in prompts]
    input_ids, attention_mask = pad_prompts(token_ids, prompted.model.config.max_positions)
    return PromptBatch(prompts, token_ids, input_ids, attention_mask)


def _sampling(
    prompted: PromptedModel, batch: PromptBatch, options: GenerateOptions, key: jax.Array
) -> dict[str, Any]:
    """The keyword arguments of `generate` and `stream`."""
    longest = max(len(ids) for ids in batch.token_ids)
    positions_left = prompted.model.config.max_positions - longest
    return {
        "max_new_tokens": min(options.max_new_tokens, positions_left),
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "repetition_penalty": options.repetition_penalty,
        "key": key,
        "eos_ids": prompted.end_ids,
    }


class Weights(NamedTuple):
    """The weights to generate with: parameters, and the `lora` collection or None."""

    params: Any
    lora: Any


def _weights_by_heading(prompted: PromptedModel, options: GenerateOptions) -> dict[str, Weights]:
    """The weights to generate with, by the heading to print; no heading if there is one model."""
    tuned = Weights(prompted.params, prompted.lora)
    if options.compare:
        return {"base": Weights(prompted.base, None), "fine-tuned": tuned}
    return {"": tuned}


def _stream_continuation(
    prompted: PromptedModel, batch: PromptBatch, options: GenerateOptions, key: jax.Array
) -> None:
    """Print the continuation of the only prompt, piece by piece."""
    sampling = _sampling(prompted, batch, options, key)
    stop = tuple(options.stop or ())
    for heading, weights in _weights_by_heading(prompted, options).items():
        _print_heading(heading)
        steps = stream(
            prompted.model,
            *weights,
            batch.input_ids,
            batch.attention_mask,
            **sampling,
        )
        new_ids = (int(step[0]) for step in steps)
        for piece in stream_text(prompted.tokenizer, batch.token_ids[0], new_ids, stop):
            print(piece, end="", flush=True)
        print()


def _print_continuations(
    prompted: PromptedModel, batch: PromptBatch, options: GenerateOptions, key: jax.Array
) -> None:
    """Print every prompt of a batch with its continuations."""
    texts = {
        heading: _continuations(prompted, batch, weights, options, key)
        for heading, weights in _weights_by_heading(prompted, options).items()
    }
    for index, prompt in enumerate(batch.prompts):
        print(f"> {prompt.text}")
        for heading, continuations in texts.items():
            _print_heading(heading)
            print(continuations[index])


def _continuations(
    prompted: PromptedModel,
    batch: PromptBatch,
    weights: Weights,
    options: GenerateOptions,
    key: jax.Array,
) -> list[str]:
    """The continuation of each prompt of a batch."""
    sampling = _sampling(prompted, batch, options, key)
    stop = tuple(options.stop or ())
    generated = generate(
        prompted.model, *weights, batch.input_ids, batch.attention_mask, **sampling
    )
    tokens, lengths = on_host(generated)
    texts = []
    for prompt_ids, new_ids, length in zip(batch.token_ids, tokens, lengths, strict=True):
        texts.append(continuation(prompted.tokenizer, prompt_ids, new_ids[:length], stop))
    return texts


def _print_heading(heading: str) -> None:
    if heading:
        print(f"[{heading}]")
    sys.stdout.flush()

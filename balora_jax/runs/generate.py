"""balora generate: prompts in, continuations out, from a run, a model, or both side by side."""

import pathlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from rich.console import Console

from balora_jax import data, models
from balora_jax.errors import BadInput
from balora_jax.generation import continuation, generate, pad_prompts, stream, stream_text
from balora_jax.runs.export import reopen
from balora_jax.training.run_folder import RunFolder

RAW = "none"


@dataclass(frozen=True)
class GenerateOptions:
    """What `balora generate` takes."""

    run: str | None = None
    """A run's folder; its model, adapters and prompt template are used."""
    model: str | None = None
    """A Hugging Face folder or hub id, instead of a run."""
    prompt: str | None = None
    """One prompt; its continuation streams to the terminal."""
    prompts: str | None = None
    """A text file with a prompt a line; they are continued in batches."""
    compare: bool = False
    """Also show what the model says without the run's adapters."""
    checkpoint: str = "latest"
    """The run's checkpoint: a step, latest, or best (by held-out loss)."""
    template: str | None = None
    """alpaca, chat, a text with {instruction}, or none; the run's own (none with --model) by default."""
    max_new_tokens: int = 200
    """Tokens to add at most."""
    temperature: float = 0.0
    """0 takes the likeliest token, more draws ever more freely."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that make up this share of the probability."""
    stop: list[str] | None = None
    """Texts that end a continuation."""
    seed: int = 0
    """Of the draws."""
    batch_size: int = 8
    """Prompts continued at once."""

    def __post_init__(self) -> None:
        if (self.run is None) == (self.model is None):
            raise BadInput(
                "generate needs a run or a model; accepted: exactly one of --run DIR and --model SOURCE"
            )
        if (self.prompt is None) == (self.prompts is None):
            raise BadInput(
                "generate needs prompts; accepted: exactly one of --prompt TEXT and --prompts FILE"
            )
        if self.compare and self.run is None:
            raise BadInput("--compare shows a run beside its model; accepted: with --run DIR")
        for name, ok, accepted in (
            ("max_new_tokens", self.max_new_tokens >= 1, "a whole number of at least 1"),
            ("temperature", self.temperature >= 0, "a number of at least 0"),
            ("top_p", 0 < self.top_p <= 1, "a share above 0, at most 1"),
            ("batch_size", self.batch_size >= 1, "a whole number of at least 1"),
        ):
            if not ok:
                raise BadInput(f"--{name} is {getattr(self, name)}; accepted: {accepted}")


@dataclass(frozen=True)
class Speaker:
    """A model with its tokenizer and prompt template; `lora` is None for the model alone."""

    model: Any
    params: Any
    lora: Any
    tokenizer: Any
    render: Callable[[str], str]
    ends: tuple[int, ...]
    adds_special_tokens: bool


def complete(options: GenerateOptions, console: Console | None = None) -> None:
    """Prints the continuations that the options ask for.

    Raises:
      BadInput: a folder that holds no run, a prompt that is empty or longer than the model's positions.
    """
    console = console or Console(stderr=True)
    prompts = _read_prompts(options)
    speaker = _from_run(options, console) if options.run else _from_model(options)
    for at in range(0, len(prompts), options.batch_size):
        _answer(prompts[at : at + options.batch_size], speaker, options)


def _read_prompts(options: GenerateOptions) -> list[str]:
    if options.prompt is not None:
        prompts = [options.prompt]
    else:
        path = pathlib.Path(options.prompts).expanduser()
        if not path.is_file():
            raise BadInput(
                f"--prompts {path} is no file; accepted: a text file with a prompt a line"
            )
        prompts = [line for line in path.read_text().splitlines() if line.strip()]
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise BadInput("a prompt is empty; accepted: at least one word")
    return prompts


def _from_run(options: GenerateOptions, console: Console) -> Speaker:
    folder = RunFolder(options.run)
    config = folder.read_config()
    if config.model.task != "causal-lm":
        raise BadInput(
            f"--run {folder.path} is of model.task {config.model.task}; accepted: a run of causal-lm"
        )
    student, state, step = reopen(folder, config, options.checkpoint)
    if not folder.summary.exists():
        console.print(
            f"{folder.path} has not ended: using its checkpoint of step {step}",
            highlight=False,
            soft_wrap=True,
        )
    params = student.params(state).base
    lora = None if config.method == "full" else student.delta_lora(state)
    template = options.template or config.data.template
    tokenizer = data.load_tokenizer(
        config.model.tokenizer or config.model.source, config.model.revision
    )
    return _speaker(student.model, params, lora, tokenizer, template)


def _from_model(options: GenerateOptions) -> Speaker:
    model, params = models.load_pretrained(options.model)
    return _speaker(
        model, params, None, data.load_tokenizer(options.model), options.template or RAW
    )


def _speaker(model: Any, params: Any, lora: Any, tokenizer: Any, template: str) -> Speaker:
    if template == RAW:
        return Speaker(
            model, params, lora, tokenizer, lambda prompt: prompt, (tokenizer.eos_token_id,), True
        )
    made = data.make_template(template, tokenizer)
    return Speaker(
        model,
        params,
        lora,
        tokenizer,
        lambda prompt: made.render({"instruction": prompt}),
        made.ending,
        made.adds_special_tokens,
    )


def _answer(prompts: Sequence[str], speaker: Speaker, options: GenerateOptions) -> None:
    tokenize = speaker.tokenizer
    special = {"add_special_tokens": speaker.adds_special_tokens, "verbose": False}
    ids = [tokenize(speaker.render(prompt), **special)["input_ids"] for prompt in prompts]
    padded, mask = pad_prompts(ids, speaker.model.config.max_positions)
    room = speaker.model.config.max_positions - max(map(len, ids))
    choice = {
        "max_new_tokens": min(options.max_new_tokens, room),
        "temperature": options.temperature,
        "top_p": options.top_p,
        "key": jax.random.key(options.seed),
        "eos_ids": speaker.ends[:1],
    }
    stop = tuple(options.stop or ())
    adapters = {"base": None, "fine-tuned": speaker.lora} if options.compare else {"": speaker.lora}
    texts = {}
    for name, lora in adapters.items():
        if len(prompts) == 1:
            _say(name)
            tokens = stream(speaker.model, speaker.params, lora, padded, mask, **choice)
            for piece in stream_text(
                speaker.tokenizer, ids[0], (int(step[0]) for step in tokens), stop
            ):
                print(piece, end="", flush=True)
            print()
        else:
            made = generate(speaker.model, speaker.params, lora, padded, mask, **choice)
            rows = zip(ids, jax.device_get(made.tokens), jax.device_get(made.lengths), strict=True)
            texts[name] = [
                continuation(speaker.tokenizer, row, new[:length], stop)
                for row, new, length in rows
            ]
    for number, prompt in enumerate(prompts if texts else ()):
        print(f"> {prompt}")
        for name in adapters:
            _say(name)
            print(texts[name][number])


def _say(name: str) -> None:
    if name:
        print(f"[{name}]")
    sys.stdout.flush()

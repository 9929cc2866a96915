"""A causal language model as evaluations see it: text in, log-likelihoods and text out."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from balora_jax.errors import BadInput, shown
from balora_jax.generation import generate, pad_prompts, stream
from balora_jax.generation.scoring import BATCH_TOKENS, Score, next_log_probs, score
from balora_jax.hosts import on_host
from balora_jax.training.processes import require_same

# Prompts that are continued at once.
ROWS = 16
# Updates of a generation between looks for stop texts.
LOOK_EVERY = 8


class LanguageModel:
    """A causal language model with one set of weights, and its tokenizer.

    Texts are tokenized as lm-eval's `hf` model does, so that scores can be compared with published
    ones: special tokens as the tokenizer adds them, BOS (or EOS) before a text without a context,
    and spaces at a context's end count to the continuation.

    Attributes:
      name: the name in tables, such as adapter or base.
      model: the Linen module.
      params: its parameters.
      lora: adapters with their scale folded in; None for none.
      tokenizer: a Hugging Face tokenizer.
      max_length: the most tokens that the model reads.
      sharding: the devices of a batch's rows; None for the default device.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        params: dict,
        lora: dict | None,
        tokenizer: Any,
        *,
        end_ids: Sequence[int] = (),
        sharding: jax.sharding.Sharding | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        """Join a model with its weights and its tokenizer.

        Args:
          name: the name in tables.
          model: a decoder of `balora_jax.models`.
          params: its parameters.
          lora: adapters with their scale folded in; None for none.
          tokenizer: a Hugging Face tokenizer.
          end_ids: tokens that end a generated text besides EOS, such as the end of a turn.
          sharding: the devices of a batch's rows; None for the default device.
          batch_tokens: tokens of a batch, padding included.

        Raises:
          BadInput: the tokenizer has neither a BOS nor an EOS token.
        """
        self.name = name
        self.model = model
        self.params = params
        self.lora = lora
        self.tokenizer = tokenizer
        self.max_length = model.config.max_positions
        self.sharding = sharding
        self.batch_tokens = batch_tokens
        eos = tokenizer.eos_token_id
        self.end_ids = tuple(dict.fromkeys([*([] if eos is None else [eos]), *end_ids]))
        bos = tokenizer.bos_token_id
        self._prefix = tokenizer.eos_token_id if bos is None else bos
        if self._prefix is None:
            raise BadInput(
                f"the tokenizer {tokenizer.name_or_path} has neither a BOS nor an EOS token; "
                "accepted: one of them, which stands before a text without a context"
            )

    def with_lora(self, lora: dict | None) -> "LanguageModel":
        """Return the model with other adapters on the same weights.

        Args:
          lora: adapters with their scale folded in; None for none.
        """
        other = copy.copy(self)
        other.lora = lora
        return other

    @property
    def prefix_id(self) -> int:
        """The token before a text without a context."""
        return self._prefix

    def encode(self, text: str, *, special: bool | None = None) -> list[int]:
        """Tokenize a text.

        Args:
          text: the text.
          special: whether special tokens are added; None for as the tokenizer does by default,
            unless the text begins with the BOS token itself.
        """
        if special is None:
            special = not text.startswith(self.tokenizer.decode([self._prefix]))
        ids = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        if max(ids, default=0) >= self.model.config.vocab_size:
            raise BadInput(
                f"the tokenizer makes token {max(ids)} and the model has "
                f"{self.model.config.vocab_size}; accepted: the model's own tokenizer"
            )
        return ids

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokenize a context with its continuation, and divide the tokens.

        Args:
          context: the text before; it may be empty.
          continuation: the text to score.

        Returns:
          The tokens of each; those of an empty context are BOS.
        """
        stripped = context.rstrip()
        if not stripped:
            ids = self.encode(context + continuation, special=False)
            if ids and ids[0] == self._prefix:
                return ids[:1], ids[1:]
            return [self._prefix], ids
        whole = self.encode(context + continuation)
        before = len(self.encode(stripped))
        return whole[:before], whole[before:]

    def scores(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> Iterator[tuple[int, Score]]:
        """Score pairs of tokens; see `balora_jax.generation.scoring.score`.

        Raises:
          BadInput: a continuation alone is longer than the model reads.
        """
        require_same({"texts": pairs})
        for _, continuation in pairs:
            if len(continuation) > self.max_length:
                text = self.tokenizer.decode(continuation)
                raise BadInput(
                    f"the answer {shown(text)} has {len(continuation)} tokens, and the model reads "
                    f"{self.max_length}; accepted: shorter answers, or a model of more positions"
                )
        return score(
            self.model,
            self.params,
            self.lora,
            pairs,
            max_length=self.max_length,
            batch_tokens=self.batch_tokens,
            sharding=self.sharding,
        )

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """Compute the log-likelihood of each continuation after its context.

        Args:
          pairs: (context, continuation); a context may be empty, a continuation may not.

        Returns:
          The score of each pair.
        """
        encoded = [self.encode_pair(*pair) for pair in pairs]
        results = dict(self.scores(encoded))
        return [results[index] for index in range(len(pairs))]

    def text_log_likelihoods(self, texts: Sequence[str]) -> list[Score]:
        """Compute the log-likelihood of each whole text.

        Args:
          texts: the texts.

        Returns:
          The score of each; a text with more tokens than the model reads is scored in pieces, each
          after as much of the text before as fits.
        """
        windows = []
        owners = []
        for index, text in enumerate(texts):
            for window in self.windows(self.encode(text)):
                windows.append(window)
                owners.append(index)
        totals = [Score(0.0, True, 0)] * len(texts)
        for number, part in self.scores(windows):
            total = totals[owners[number]]
            totals[owners[number]] = Score(
                total.log_likelihood + part.log_likelihood,
                total.greedy and part.greedy,
                total.tokens + part.tokens,
            )
        return totals

    def windows(self, ids: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
        """Divide a text into pairs that the model can read, in which each token is scored once.

        Args:
          ids: the tokens of the text.

        Yields:
          (context, continuation); the first context is BOS.
        """
        text = [self._prefix, *ids]
        for start in range(1, len(text), self.max_length):
            end = min(start + self.max_length, len(text))
            # The last window, which may score few tokens, reads as many before them as fit.
            first = min(start - 1, max(0, end - 1 - self.max_length))
            yield text[first:start], text[start:end]

    def next_log_probs(self, contexts: Sequence[str]) -> np.ndarray:
        """Compute the log-probabilities of the token after each context.

        Args:
          contexts: the texts; an empty one is BOS alone.

        Returns:
          float32 [contexts, V].
        """
        encoded = [self.encode(context) or [self._prefix] for context in contexts]
        require_same({"texts": encoded})
        return next_log_probs(
            self.model,
            self.params,
            self.lora,
            encoded,
            max_length=self.max_length,
            batch_tokens=self.batch_tokens,
        )

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """Continue prompts.

        Args:
          prompts: the prompts; of one that leaves no room the last tokens are read.
          max_new_tokens: the most tokens to add.
          stop: texts that end a continuation; they are not part of it.
          temperature: the divisor of the logits; 0 takes the likeliest token.
          top_p: draws from the likeliest tokens that make up this share of the probability.
          seed: of the draws.

        Returns:
          The continuations.
        """
        sampling = {"temperature": temperature, "top_p": top_p, "seed": seed}
        results = dict(
            self.continuations(prompts, max_new_tokens=max_new_tokens, stop=stop, **sampling)
        )
        return [results[index] for index in range(len(prompts))]

    def continuations(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[tuple[int, str]]:
        """Continue prompts, the longest first, in batches of similar lengths.

        Args:
          prompts: as for `generate`.
          max_new_tokens: as for `generate`.
          stop: as for `generate`.
          temperature: as for `generate`.
          top_p: as for `generate`.
          seed: as for `generate`; each batch has draws of its own.

        Yields:
          (the prompt's index, its continuation).

        Raises:
          BadInput: the model has not that many positions.
        """
        encoded = [self.encode(prompt) or [self._prefix] for prompt in prompts]
        sampling = {"temperature": temperature, "top_p": top_p, "seed": seed}
        yield from self.token_continuations(
            encoded, max_new_tokens=max_new_tokens, stop=stop, end_ids=self.end_ids, **sampling
        )

    def token_continuations(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        end_ids: Sequence[int],
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[tuple[int, str]]:
        """Continue tokenized prompts, as `continuations` does texts.

        Args:
          prompts: the tokens of each, at least one; of one that leaves no room the last are read.
          max_new_tokens: as for `generate`.
          end_ids: the tokens that end a continuation.
          stop: as for `generate`.
          temperature: as for `generate`.
          top_p: as for `generate`.
          seed: as for `continuations`.

        Yields:
          (the prompt's index, its continuation).

        Raises:
          BadInput: the model has not that many positions.
        """
        room = self.max_length - max_new_tokens
        if room < 1:
            raise BadInput(
                f"{max_new_tokens} new tokens do not fit the model's {self.max_length} positions; "
                f"accepted: at most {self.max_length - 1}"
            )
        encoded = [list(prompt)[-room:] for prompt in prompts]
        require_same({"prompts": encoded})
        order = sorted(range(len(prompts)), key=lambda index: -len(encoded[index]))
        key = jax.random.key(seed)
        for start in range(0, len(order), ROWS):
            indices = order[start : start + ROWS]
            # The last batch has as many rows as the others, so that it needs no program.
            rows = [encoded[index] for index in indices]
            rows += [rows[-1]] * (min(ROWS, len(order)) - len(rows))
            texts = self._continue_batch(
                rows,
                max_new_tokens,
                [text for text in stop if text],
                end_ids,
                temperature=temperature,
                top_p=top_p,
                key=jax.random.fold_in(key, start),
            )
            yield from zip(indices, texts, strict=False)

    def _continue_batch(
        self,
        rows: list[list[int]],
        count: int,
        stop: list[str],
        end_ids: Sequence[int],
        **sampling: Any,
    ) -> list[str]:
        input_ids, attention_mask = pad_prompts(rows, self.max_length)
        arguments = (self.model, self.params, self.lora, input_ids, attention_mask)
        options = {"max_new_tokens": count, **sampling}
        if stop:
            # A row goes on after its end, which is cut off, until all have ended.
            return self._until(stream(*arguments, **options), stop, end_ids)
        generated = generate(*arguments, **options, eos_ids=end_ids)
        tokens, lengths = on_host(generated)
        return [self._decode(row[:size]) for row, size in zip(tokens, lengths, strict=True)]

    def _until(
        self, steps: Iterator[np.ndarray], stop: list[str], end_ids: Sequence[int]
    ) -> list[str]:
        """Take steps of a generation until each row has ended or has a stop text."""
        columns = []
        for step in steps:
            columns.append(step)
            if len(columns) % LOOK_EVERY:
                continue
            rows = np.stack(columns, axis=1)
            ended = np.isin(rows, end_ids).any(axis=1)
            open_rows = [self._decode(row) for row in rows[~ended]]
            if all(_has_any(text, stop) for text in open_rows):
                break
        rows = [_before(row, end_ids) for row in np.stack(columns, axis=1)]
        return [cut(self._decode(row), stop) for row in rows]

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def cut(text: str, stop: Sequence[str]) -> str:
    """Cut a text before the first of several texts.

    Args:
      text: the text.
      stop: the texts that end it.
    """
    ends = [text.find(end) for end in stop if end in text]
    return text[: min(ends)] if ends else text


def _has_any(text: str, stop: Sequence[str]) -> bool:
    return any(end in text for end in stop)


def _before(row: np.ndarray, end_ids: Sequence[int]) -> np.ndarray:
    """The tokens before the one that ends the text."""
    places = np.flatnonzero(np.isin(row, end_ids))
    return row[: places[0]] if len(places) else row

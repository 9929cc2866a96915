"""A language model of this package as lm-eval's tasks ask it."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from balora_jax.errors import BadInput
from balora_jax.evaluation.harness.responses import Responses, Unkept, request_key
from balora_jax.evaluation.language_model import LanguageModel

# New tokens where a task does not say how many, as in lm-eval's own models.
MAX_NEW_TOKENS = 256
# The options of a generation that a task may set.
OPTIONS = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_p"})
# Options whose value in a task may only be the one that has no effect here.
WITHOUT_EFFECT = {"top_k": (None, 0, 50), "num_beams": (None, 1), "repetition_penalty": (None, 1)}
# An answered request: (its index, its answer).
Answered = tuple[int, Any]


class HarnessModel(TemplateLM):
    """A language model that lm-eval asks; answers that are on disk are not computed again.

    Attributes:
      cut: the texts so far whose beginnings did not fit the model.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        responses: Responses | Unkept,
        *,
        begin: Callable[[int], None],
        show: Callable[[int], None],
        seed: int = 0,
    ) -> None:
        """Join a model with its answers.

        Args:
          language_model: the model.
          responses: its answers so far.
          begin: called with the number of requests that follow.
          show: called with the number of requests that have been answered since.
          seed: of draws.
        """
        super().__init__()
        self.tokenizer = language_model.tokenizer
        self._model = language_model
        self._responses = responses
        self._begin = begin
        self._show = show
        self._seed = seed
        self.cut = 0

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without a context."""
        return self._model.prefix_id

    @property
    def max_length(self) -> int:
        """The most tokens that the model reads."""
        return self._model.max_length

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render messages by the tokenizer's template."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokenize a text."""
        return self._model.encode(string, special=add_special_tokens)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Score continuations; see lm-eval's `LM.loglikelihood`."""

        def answer(pairs: list[tuple[str, str]]) -> Iterator[Answered]:
            encoded = [self._model.encode_pair(*pair) for pair in pairs]
            # The last token is only predicted.
            lengths = (len(context) + len(answer) - 1 for context, answer in encoded)
            self.cut += sum(length > self.max_length for length in lengths)
            for index, score in self._model.scores(encoded):
                yield index, (score.log_likelihood, score.greedy)

        answers = self._answer("loglikelihood", [request.args for request in requests], answer)
        return [tuple(answer) for answer in answers]

    def _loglikelihood_tokens(self, requests: list, **_: Any) -> list[tuple[float, bool]]:
        """Score pairs of tokens; `loglikelihood` does not need it."""
        scores = dict(self._model.scores([pair for _, *pair in requests]))
        ordered = (scores[index] for index in range(len(requests)))
        return [(score.log_likelihood, score.greedy) for score in ordered]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Score whole texts; see lm-eval's `LM.loglikelihood_rolling`."""

        def answer(texts: list[tuple[str]]) -> Iterator[Answered]:
            for index, (text,) in enumerate(texts):
                yield index, self._model.text_log_likelihoods([text])[0].log_likelihood

        return self._answer("loglikelihood_rolling", [request.args for request in requests], answer)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue prompts; see lm-eval's `LM.generate_until`."""

        def answer(arguments: list[tuple[str, dict]]) -> Iterator[Answered]:
            groups = collections.defaultdict(list)
            for index, (_, options) in enumerate(arguments):
                groups[repr(sorted(options.items()))].append(index)
            for indices in groups.values():
                prompts = [arguments[index][0] for index in indices]
                options = self._sampling(arguments[indices[0]][1])
                room = self.max_length - options["max_new_tokens"]
                self.cut += sum(len(self._model.encode(prompt)) > room for prompt in prompts)
                for number, text in self._model.continuations(prompts, **options):
                    yield indices[number], text

        drawn = f"generate_until {self._seed} {self._model.end_ids}"
        return self._answer(drawn, [request.args for request in requests], answer)

    def _sampling(self, options: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `continuations` for a task's generation options."""
        for name, value in options.items():
            if name not in OPTIONS and value not in WITHOUT_EFFECT.get(name, ()):
                raise BadInput(
                    f"a task asks for generation with {name} {value!r:.50}; "
                    f"accepted: tasks that set only {', '.join(sorted(OPTIONS))}"
                )
        until = options.get("until") or []
        drawn = options.get("do_sample", options.get("temperature", 0) > 0)
        return {
            "max_new_tokens": options.get("max_gen_toks", MAX_NEW_TOKENS),
            "stop": [until] if isinstance(until, str) else list(until),
            "temperature": options.get("temperature", 1.0) if drawn else 0.0,
            "top_p": options.get("top_p", 1.0) if drawn else 1.0,
            "seed": self._seed,
        }

    def _answer(
        self,
        kind: str,
        requests: Sequence[tuple],
        compute: Callable[[list[tuple]], Iterable[Answered]],
    ) -> list[Any]:
        """Answer requests, from disk where that is possible.

        Args:
          kind: of the requests.
          requests: the arguments of each.
          compute: answers requests, in any order.
        """
        seen = collections.Counter()
        keys = []
        for arguments in requests:
            first = request_key(kind, arguments)
            # A repeated request is drawn again.
            keys.append(request_key(kind, arguments, seen[first]))
            seen[first] += 1
        missing = [index for index, key in enumerate(keys) if key not in self._responses]
        self._begin(len(keys))
        self._show(len(keys) - len(missing))
        for number, answer in compute([requests[index] for index in missing]):
            self._responses.add(keys[missing[number]], answer)
            self._show(1)
        return [self._responses[key] for key in keys]

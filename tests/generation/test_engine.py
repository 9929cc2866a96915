"""Generation against generation without a cache, PyTorch, and reference texts."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from decoder_cases import CASES, longrope
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen3Config,
)

from balora_jax.adapters import merge
from balora_jax.errors import BadInput
from balora_jax.generation import (
    bucket_length,
    continuation,
    engine,
    generate,
    pad_prompts,
    stream,
    stream_text,
)
from balora_jax.generation.sampling import Sampling, choose
from balora_jax.models import load_pretrained

SIZES = dict(
    vocab_size=61,
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=None,
    pad_token_id=0,
)
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=6),
    "gemma2": Gemma2Config(
        **SIZES,
        head_dim=8,
        sliding_window=5,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=9.0,
        tie_word_embeddings=False,
    ),
    "qwen3": Qwen3Config(
        **SIZES,
        head_dim=6,
        use_sliding_window=True,
        sliding_window=4,
        layer_types=["full_attention", "sliding_attention"],
    ),
    "phi3": Phi3Config(**SIZES, sliding_window=6),
    # Texts beyond the original length from their first token on.
    "phi3-long": Phi3Config(
        **SIZES, original_max_position_embeddings=2, rope_parameters=longrope(3, 2)
    ),
    **{name: CASES[name] for name in ("gemma3", "mixtral", "olmo2", "granite")},
    "gemma3_text": CASES["gemma3_text-untied"],
    "smollm3": CASES["smollm3-window"],
}
PROMPTS = [[5, 9, 33, 7], [8], [3, 4, 5, 6, 7, 8, 9, 10, 11]]
# One shape for most tests, so that they share their programs; no vocabulary here has these ids.
OPTIONS = dict(max_new_tokens=12, eos_ids=(98, 99))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> (PyTorch model, our model, params), with weights that make varied texts."""
    done = {}

    def make(name):
        if name not in done:
            torch.manual_seed(0)
            reference = AutoModelForCausalLM.from_config(
                CONFIGS[name], attn_implementation="eager"
            ).eval()
            with torch.no_grad():
                for parameter in reference.parameters():
                    parameter.add_(torch.randn_like(parameter) * 1.5 * parameter.shape[-1] ** -0.5)
            folder = tmp_path_factory.mktemp(name)
            reference.save_pretrained(folder)
            done[name] = (reference, *load_pretrained(folder))
        return done[name]

    return make


@pytest.mark.parametrize("name", CONFIGS)
def test_cache_no_cache_and_pytorch_give_the_same_tokens(name, made):
    reference, model, params = made(name)
    ids, mask = pad_prompts(PROMPTS, 64)
    ours = generate(model, params, None, ids, mask, **OPTIONS)
    whole = generate(model, params, None, ids, mask, use_cache=False, **OPTIONS)
    np.testing.assert_array_equal(ours.tokens, whole.tokens)
    given = {"input_ids": torch.tensor(ids).long(), "attention_mask": torch.tensor(mask).long()}
    greedy = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    theirs = reference.generate(**given, **greedy)[:, ids.shape[1] :]
    np.testing.assert_array_equal(ours.tokens, theirs.numpy())
    assert len(np.unique(theirs)) > 5
    assert ours.lengths.tolist() == [12, 12, 12]


@pytest.mark.parametrize("penalty", [1.05, 2.0])
def test_repetitions_are_penalized_as_in_pytorch(made, penalty):
    """Of prompts of one length: transformers takes padding for a part of the text."""
    reference, model, params = made("llama")
    ids, mask = pad_prompts([[5, 9, 33, 7] * 4, list(range(8, 24))], 64)
    assert mask.all()
    given = {"input_ids": torch.tensor(ids).long(), "attention_mask": torch.tensor(mask).long()}
    options = {"max_new_tokens": 12, "do_sample": False, "repetition_penalty": penalty}
    theirs = reference.generate(**given, **options)[:, ids.shape[1] :].numpy()
    ours = {"repetition_penalty": penalty, **OPTIONS}
    for cached in (True, False):
        found = generate(model, params, None, ids, mask, use_cache=cached, **ours)
        np.testing.assert_array_equal(found.tokens, theirs)
    steps = stream(model, params, None, ids, mask, **ours)
    np.testing.assert_array_equal(np.stack(list(steps), axis=1), theirs)
    plain = np.asarray(generate(model, params, None, ids, mask, **OPTIONS).tokens)
    assert len(np.unique(theirs)) > len(np.unique(plain)) or penalty < 2


def test_padding_is_not_penalized(made):
    _, model, params = made("llama")
    options = {"repetition_penalty": 2.0, **OPTIONS}
    batch = generate(model, params, None, *pad_prompts(PROMPTS, 64), **options).tokens
    for row, prompt in enumerate(PROMPTS):
        alone = generate(model, params, None, *pad_prompts([prompt], 64), **options).tokens
        np.testing.assert_array_equal(batch[row], alone[0])


def test_a_row_does_not_depend_on_its_neighbors(made):
    _, model, params = made("mistral")
    batch = generate(model, params, None, *pad_prompts(PROMPTS, 64), **OPTIONS).tokens
    for row, prompt in enumerate(PROMPTS):
        alone = generate(model, params, None, *pad_prompts([prompt] * 3, 64), **OPTIONS).tokens
        np.testing.assert_array_equal(alone, np.stack([batch[row]] * 3))


def test_rows_end_at_their_own_token(made):
    _, model, params = made("llama")
    ids, mask = pad_prompts(PROMPTS, 64)
    free = np.asarray(generate(model, params, None, ids, mask, **OPTIONS).tokens)
    eos = (int(free[0, 4]), int(free[1, 7]))
    ended = generate(model, params, None, ids, mask, max_new_tokens=12, eos_ids=eos)
    for row, tokens in enumerate(free):
        length = next((at for at, token in enumerate(tokens) if token in eos), 12)
        assert ended.lengths[row] == length
        np.testing.assert_array_equal(
            ended.tokens[row], np.where(np.arange(12) < length, tokens, 0)
        )
    ids, mask = pad_prompts(PROMPTS[:1] * 3, 64)
    steps = list(stream(model, params, None, ids, mask, max_new_tokens=12, eos_ids=eos))
    assert len(steps) == ended.lengths[0] < 12


def test_adapters_take_part(made):
    _, model, params = made("llama")
    ids, mask = pad_prompts(PROMPTS, 64)
    kernel = params["model"]["layers"]["mlp"]["up_proj"]["kernel"]
    a = jax.random.normal(jax.random.key(0), (*kernel.shape[:2], 2))
    b = jax.random.normal(jax.random.key(1), (kernel.shape[0], 2, kernel.shape[2]))
    lora = {"model": {"layers": {"mlp": {"up_proj": {"a": a, "b": b}}}}}
    plain = generate(model, params, None, ids, mask, **OPTIONS).tokens
    adapted = generate(model, params, lora, ids, mask, **OPTIONS).tokens
    merged = generate(model, merge(params, lora), None, ids, mask, **OPTIONS).tokens
    np.testing.assert_array_equal(adapted, merged)
    assert (plain != adapted).any()


@pytest.mark.parametrize("drawing", [{}, {"temperature": 1.3, "top_p": 0.9}])
def test_streaming_gives_the_same_tokens(made, drawing):
    _, model, params = made("llama")
    ids, mask = pad_prompts(PROMPTS, 64)
    options = {**OPTIONS, **drawing}
    first, again, other = (
        np.asarray(
            generate(model, params, None, ids, mask, key=jax.random.key(k), **options).tokens
        )
        for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() == bool(drawing)
    steps = stream(model, params, None, ids, mask, key=jax.random.key(0), **options)
    np.testing.assert_array_equal(first, np.stack(list(steps), axis=1))


def test_drawing_without_a_key_is_an_error(made):
    _, model, params = made("llama")
    with pytest.raises(ValueError, match="needs a random key"):
        generate(model, params, None, *pad_prompts(PROMPTS, 64), max_new_tokens=2, temperature=1.0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_draws_from_the_tempered_softmax(temperature):
    logits = np.asarray([1.0, 0.0, -1.0, 2.0])
    expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (40_000, 4))
    drawn = choose(rows, Sampling(jax.random.key(0), temperature, None), 0)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 40_000, expected, atol=0.01)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.05, {3}), (0.5, {3}), (0.7, {3, 0}), (0.93, {3, 0, 1}), (0.999, {0, 1, 2, 3})],
)
def test_top_p_draws_from_the_smallest_set(top_p, kept):
    rows = jnp.broadcast_to(jnp.log(jnp.asarray([0.25, 0.1, 0.05, 0.6])), (5000, 4))
    drawn = choose(rows, Sampling(jax.random.key(0), 1.0, top_p), 0)
    assert set(np.unique(drawn).tolist()) == kept


@pytest.mark.parametrize(
    ("top_k", "kept"), [(1, {3}), (2, {3, 0}), (3, {3, 0, 1}), (9, {0, 1, 2, 3})]
)
def test_top_k_draws_from_the_likeliest(top_k, kept):
    rows = jnp.broadcast_to(jnp.log(jnp.asarray([0.25, 0.1, 0.05, 0.6])), (5000, 4))
    drawn = choose(rows, Sampling(jax.random.key(0), 1.0, None, top_k), 0)
    assert set(np.unique(drawn).tolist()) == kept
    shares = np.asarray([0.25, 0.1, 0.05, 0.6]) * np.isin(np.arange(4), list(kept))
    np.testing.assert_allclose(
        np.bincount(drawn, minlength=4) / 5000, shares / shares.sum(), atol=0.03
    )


def test_prompts_of_one_bucket_share_a_program(made):
    _, model, params = made("llama")
    programs = (engine._generate_cached, engine._prefill, engine._step)
    counts = []
    for length in (17, 20, 24):
        ids, mask = pad_prompts([list(range(3, 3 + length))] * 3, 64)
        assert ids.shape == (3, 24)
        key, temperature = jax.random.key(length), 0.1 * length
        generate(
            model, params, None, ids, mask, temperature=temperature, top_p=0.9, key=key, **OPTIONS
        )
        list(stream(model, params, None, ids, mask, **OPTIONS))
        counts.append([program._cache_size() for program in programs])
    assert counts[0] == counts[1] == counts[2]


def test_buckets_grow_by_halves():
    lengths = [bucket_length(n) for n in range(1, 200)]
    assert sorted(set(lengths)) == [16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert all(n <= bucket for n, bucket in enumerate(lengths, 1))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[1], []], "prompt 2 is empty"),
        ([[1] * 64], "prompt 1 has 64 tokens; accepted: fewer than the model's 64 positions"),
    ],
)
def test_prompts_that_cannot_be_used(prompts, message):
    with pytest.raises(BadInput, match=message):
        pad_prompts(prompts, 64)


Letters = collections.namedtuple("Letters", ["decode"])
BYTES = Letters(lambda ids, **_: bytes(ids).decode("utf-8", errors="replace"))


@pytest.mark.parametrize("stop", [(), ("END",), ("ND", "END"), ("é",), ("\n\n",)])
def test_streamed_pieces_make_the_continuation(stop):
    tokens = list("naïve é 🙂 END of it\n\nEND".encode())
    prompt = list("prompt é".encode())
    pieces = list(stream_text(BYTES, prompt, tokens, stop))
    text = continuation(BYTES, prompt, tokens, stop)
    assert "".join(pieces) == text
    assert not any(string in text for string in stop)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    assert len(pieces) > 3


def test_streaming_takes_no_token_after_a_stop_string():
    asked = []
    tokens = (asked.append(token) or token for token in b"one STOP two")
    assert "".join(stream_text(BYTES, list(b"x"), tokens, ("STOP",))) == "one "
    assert bytes(asked) == b"one STOP"


def test_an_incomplete_character_at_the_end_is_shown_as_decoded():
    tokens = list("né".encode())[:-1]
    assert "".join(stream_text(BYTES, list(b"x"), tokens)) == "n\N{REPLACEMENT CHARACTER}"


def test_stories_give_the_reference_text_for_200_tokens(real_model, shared):
    folder = real_model("stories260k")
    note = (shared / "models" / "stories260k" / "stories260K.md").read_text(encoding="utf-8")
    reference = note.split("-t 0.0\n")[1]
    model, params = load_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = [tokenizer.bos_token_id]
    tokens = generate(model, params, None, *pad_prompts([prompt], 512), max_new_tokens=200).tokens[
        0
    ]
    text = continuation(tokenizer, prompt, np.asarray(tokens))
    assert len(text) > 400
    assert reference.startswith(text)


def test_smollm2_knows_a_capital(real_model):
    folder = real_model("smollm2")
    model, params = load_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("The capital of France is")["input_ids"]
    tokens = stream(model, params, None, *pad_prompts([prompt], 8192), max_new_tokens=2)
    assert "".join(stream_text(tokenizer, prompt, (token[0] for token in tokens))) == " Paris."

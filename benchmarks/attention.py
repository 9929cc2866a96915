"""Time and memory of attention and its gradients: plain, in chunks, and PyTorch's.

On a CPU, or on an accelerator (PyTorch's column is always the CPU's; it needs the extra `test`):

    python -m benchmarks.attention [--heads 9x3x64 32x32x128] [--lengths 2048] [--repeats 5]
    python -m benchmarks.attention --memory --heads 32x32x128 --lengths 512 2048 4096 8192 32768

Heads are heads x kv_heads x size. Of one causal text in float32, forward and backward. Times are
taken in turn, and each is the best of its rounds; under --memory nothing is run, and the sizes are
those that the compiler plans. Prints a table and writes benchmarks/results/attention_time.json or
benchmarks/results/attention_memory.json.
"""

import argparse
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.models.layers.chunked_attention import attend_in_chunks
from balora_jax.models.layers.mask import AttentionMask
from balora_jax.models.layers.plain_attention import attend_plainly
from benchmarks import measure

FORMS = {"plain": attend_plainly, "chunked": attend_in_chunks}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", nargs="+", default=["9x3x64", "32x32x128"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[2048])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="of the compiled programs, not times")
    options = parser.parse_args()
    rows = []
    for heads in options.heads:
        sizes = tuple(int(number) for number in heads.split("x"))
        for length in options.lengths:
            numbers = memory(length, *sizes) if options.memory else times(length, *sizes, options)
            rows.append({"heads": heads, "length": length, **numbers})
            unit = "GB" if options.memory else "s"
            columns = [f"{name} {number:8.4f} {unit}" for name, number in numbers.items()]
            print(f"{heads:10} {length:6} tokens  {'  '.join(columns)}", flush=True)
    name = "attention_memory" if options.memory else "attention_time"
    measure.write(name, {"options": vars(options), "rows": rows})


def memory(length: int, heads: int, kv_heads: int, size: int) -> dict[str, float]:
    """Compile the gradient of each form, and return the temporaries in GB."""
    shapes = [
        jax.ShapeDtypeStruct((1, length, count, size), jnp.float32)
        for count in (heads, kv_heads, kv_heads, heads)
    ]
    numbers = {}
    for name, attention in FORMS.items():
        compiled = _outputs(attention).lower(*shapes).compile()
        numbers[name] = compiled.memory_analysis().temp_size_in_bytes / 1e9
    return numbers


def times(
    length: int, heads: int, kv_heads: int, size: int, options: argparse.Namespace
) -> dict[str, float]:
    """Run all forms in turn, and return the best time of each in seconds."""
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=(1, length, count, size)).astype(np.float32)
        for count in (heads, kv_heads, kv_heads, heads)
    ]
    inputs = [jnp.asarray(array) for array in arrays]
    calls = {
        name: functools.partial(_outputs(attention), *inputs) for name, attention in FORMS.items()
    }
    calls["pytorch"] = _pytorch(arrays)
    _check({name: call() for name, call in calls.items()})
    seconds = measure.seconds_in_turn(calls, options.repeats)
    return {name: min(times) for name, times in seconds.items()}


def _outputs(attention: Callable) -> Callable:
    """Compile a function of query, key, value and cotangent: the output and three gradients."""

    @jax.jit
    def run(query, key, value, cotangent):
        positions = jnp.arange(query.shape[1])[None]
        mask = AttentionMask.causal(positions, positions, positions >= 0, is_ordered=True)

        def attended(query, key, value):
            return attention(query, key, value, mask, scale=query.shape[-1] ** -0.5)

        output, backward = jax.vjp(attended, query, key, value)
        return output, *backward(cotangent)

    return run


def _pytorch(arrays: list[np.ndarray]) -> Callable:
    """The same by PyTorch's scaled_dot_product_attention, of heads before tokens."""
    import torch

    *inputs, cotangent = [torch.tensor(x).transpose(1, 2).contiguous() for x in arrays]

    def run():
        leaves = [x.clone().requires_grad_(True) for x in inputs]
        output = torch.nn.functional.scaled_dot_product_attention(
            *leaves, is_causal=True, enable_gqa=True
        )
        output.backward(cotangent)
        results = [output.detach(), *(leaf.grad for leaf in leaves)]
        return [result.transpose(1, 2).numpy() for result in results]

    return run


def _check(results: dict[str, list]) -> None:
    """Check that all forms return the plain one's output and gradients."""
    for result in results.values():
        for one, other in zip(result, results["plain"], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


if __name__ == "__main__":
    main()

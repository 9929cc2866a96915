"""Time and reconstruction error of the PiSSA start of one kernel, ours and PEFT's.

    python -m benchmarks.pissa_init [--shape 4096x11008] [--rank 128] [--niter 16] [--repeats 1]
        [--no-exact]

Both factor the same float32 kernel W into A B. The error is |W - A B| over the error of the best
approximation of this rank, which is known because the kernel is made from given singular values.
PEFT runs in the same process, on PyTorch's threads. It also subtracts A B from the kernel, which
the delta form does not need. Prints a table and writes benchmarks/results/pissa_init.json.
"""

import argparse
import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
import torch
from peft.tuners.lora import LoraConfig
from peft.tuners.lora.layer import Linear

from balora_jax.adapters.pissa import principal_factors
from benchmarks import measure

LINE = "{method:22} {seconds:9.2f} s   error {error:.6f} x the best possible"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="4096x11008")
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--niter", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--no-exact",
        action="store_true",
        help="leave out the whole decompositions, which take minutes",
    )
    options = parser.parse_args()
    fan_in, fan_out = (int(side) for side in options.shape.split("x"))
    kernel, least_error = make_kernel(fan_in, fan_out, options.rank)
    calls = {}
    for init, niter in {"pissa": None, f"pissa_niter_{options.niter}": options.niter}.items():
        if niter is not None or not options.no_exact:
            calls |= {
                f"ours {init}": _ours(kernel, options.rank, niter),
                f"peft {init}": _peft(kernel, options.rank, init),
            }
    seconds = measure.seconds_in_turn(calls, options.repeats)
    rows = []
    for method, call in calls.items():
        a, b = (np.asarray(factor, np.float64) for factor in call())
        error = float(np.linalg.norm(kernel - a @ b) / least_error)
        median = statistics.median(seconds[method])
        row = {"method": method, "seconds": median, "error": error}
        rows.append(row)
        print(LINE.format(**row), flush=True)
    measure.write("pissa_init", {"options": vars(options), "rows": rows})


def make_kernel(fan_in: int, fan_out: int, rank: int) -> tuple[np.ndarray, float]:
    """Make a dense kernel with singular values (1 + i)^-0.6.

    Args:
      fan_in: rows.
      fan_out: columns.
      rank: the rank of the best approximation.

    Returns:
      The kernel [fan_in, fan_out], float32, and the error of its best approximation of this rank in
      the Frobenius norm.
    """
    rng = np.random.default_rng(0)
    values = (1.0 + np.arange(min(fan_in, fan_out))) ** -0.6
    kernel = np.zeros((fan_in, fan_out))
    np.fill_diagonal(kernel, values)
    # Permutations, cosine transforms and signs make it dense and keep its singular values.
    kernel = kernel[rng.permutation(fan_in)][:, rng.permutation(fan_out)]
    kernel = scipy.fft.dctn(kernel, norm="ortho") * rng.choice([-1.0, 1.0], size=fan_out)
    return kernel.astype(np.float32), float(np.linalg.norm(values[rank:]))


def _ours(kernel: np.ndarray, rank: int, niter: int | None):
    """A call that returns our factors (a, b)."""
    split = jax.jit(lambda kernel, key: principal_factors(kernel, rank, niter=niter, key=key))
    return functools.partial(split, jnp.asarray(kernel), jax.random.key(0))


def _peft(kernel: np.ndarray, rank: int, init: str):
    """A call that returns PEFT's factors (a, b)."""
    base = torch.nn.Linear(*kernel.shape, bias=False)
    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=init)

    def start() -> tuple[torch.Tensor, torch.Tensor]:
        base.weight.data = torch.tensor(kernel.T)
        layer = Linear(base, "default", config, r=rank, lora_alpha=rank)
        a = layer.lora_A["default"].weight.data.T
        b = layer.lora_B["default"].weight.data.T
        return a, b

    return start


if __name__ == "__main__":
    main()

"""Adapter geometry: how large a learned change is, and which directions of the base it uses.

A kernel W is [in, out] and its change is A B. A layer's output is x W, so the right singular
vectors of W are directions of the output; PyTorch stores W^T and calls them left.

Intruder dimensions (Shuttleworth et al., arXiv 2410.21228) are leading output directions y of
W + A B whose largest |cosine| with any output direction u_i of W is small. That needs every u_i,
but a full decomposition is not computed. The largest cosine is bounded from both sides instead:

- Below by the cosines with the leading directions of W, which are computed.
- Above as well by the rest of y. The squared cosines with the other directions are the weights of
  a distribution over their squared singular values, whose moments are y^T (W^T W)^j y. Some Lanczos
  steps give its Gauss quadrature (Golub and Meurant, "Matrices, Moments and Quadrature", ch. 6).
  By the inequalities of Chebyshev, Markov and Stieltjes (Szego, "Orthogonal Polynomials", 3.41)
  everything between two neighboring nodes weighs at most as much as the two, and so does any one
  direction.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from scipy.linalg import subspace_angles

from balora_jax.adapters import adapted_leaf
from balora_jax.hosts import on_host
from balora_jax.linalg.leading import leading_triplets
from balora_jax.linalg.randomized import orthonormal

Tree = Mapping[str, Any]
# The defaults of the authors' code and of PEFT's reduce_intruder_dimension.
TOP = 10
EPSILON = 0.5
# Leading directions of the base that are computed, and Lanczos steps on the rest.
KNOWN = 64
STEPS = 32
EPS = float(np.finfo(np.float32).eps)
# Lanczos ends where the next direction is rounding error of the operator.
ENDED = 10 * EPS


@dataclasses.dataclass(frozen=True)
class KernelGeometry:
    """The change of one kernel, beside the kernel of the base.

    Attributes:
      module: the path of the module, such as model.layers.mlp.up_proj.
      layer: the number of the layer in a stack; None where modules are not stacked.
      kernel_norm: the Frobenius norm of the base kernel.
      change_norm: the Frobenius norm of the change.
      directions: the rank of the change, directions that are rounding error left out.
      input_angles: [directions] or fewer, degrees from 0 (shared) to 90 (apart), ascending: the
        principal angles between the inputs that the change reads and as many leading input
        directions of the base. Empty where nothing has changed.
      output_angles: the same of the outputs that the change writes.
      input_share: the part of the change's squared norm in those directions of the base, 0 to 1; a
        random change has about directions / in. 0 where nothing has changed.
      output_share: the same of the outputs; a random change has about directions / out.
      cosines_low: [k], for each leading output direction of the changed kernel, strongest first,
        the least that its largest |cosine| with an output direction of the base can be.
      cosines_high: [k], the most that it can be.
      intruders: how many of the k are intruders.
      undecided: how many of the k may be, because epsilon lies between the bounds.
    """

    module: str
    layer: int | None
    kernel_norm: float
    change_norm: float
    directions: int
    input_angles: tuple[float, ...]
    output_angles: tuple[float, ...]
    input_share: float
    output_share: float
    cosines_low: tuple[float, ...]
    cosines_high: tuple[float, ...]
    intruders: int
    undecided: int

    @property
    def relative(self) -> float:
        """The norm of the change over that of the base kernel; 0 where the kernel is 0."""
        return self.change_norm / self.kernel_norm if self.kernel_norm > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """The measures as an object."""
        return dataclasses.asdict(self) | {"relative": self.relative}


@dataclasses.dataclass(frozen=True)
class LayerGeometry:
    """The changes of all adapted kernels of a layer together.

    Attributes:
      layer: its number; None for the modules that are not stacked.
      relative: the norm of the changes over that of the base kernels.
      intruders: the sum over the kernels.
      undecided: the sum over the kernels.
      tested: the directions that were tested.
    """

    layer: int | None
    relative: float
    intruders: int
    undecided: int
    tested: int


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The change of every adapted kernel.

    Attributes:
      kernels: one for each module and layer.
      epsilon: the |cosine| below which a direction is an intruder.
    """

    kernels: tuple[KernelGeometry, ...]
    epsilon: float

    @property
    def relative(self) -> float:
        """The norm of all changes over that of all adapted kernels of the base."""
        return _relative(self.kernels)

    @property
    def input_share(self) -> float:
        """The part of all changes' squared norm in leading input directions of the base."""
        return self._share("input_share")

    @property
    def output_share(self) -> float:
        """The part of all changes' squared norm in leading output directions of the base."""
        return self._share("output_share")

    @property
    def intruders(self) -> int:
        """The intruders of all kernels."""
        return sum(kernel.intruders for kernel in self.kernels)

    @property
    def undecided(self) -> int:
        """The undecided directions of all kernels."""
        return sum(kernel.undecided for kernel in self.kernels)

    def _share(self, name: str) -> float:
        squares = np.array([kernel.change_norm**2 for kernel in self.kernels])
        shares = np.array([getattr(kernel, name) for kernel in self.kernels])
        whole = squares.sum()
        return float(squares @ shares / whole) if whole > 0 else 0.0

    def by_layer(self) -> list[LayerGeometry]:
        """Sum the kernels of each layer up, in the order of the layers, unstacked ones last."""
        layers = {kernel.layer for kernel in self.kernels}
        ordered = sorted(layers, key=lambda layer: (layer is None, layer or 0))
        return [
            _layer([kernel for kernel in self.kernels if kernel.layer == layer])
            for layer in ordered
        ]

    def to_json(self) -> dict[str, Any]:
        """The measures as an object, of every kernel and by layer."""
        return {
            "epsilon": self.epsilon,
            "relative": self.relative,
            "input_share": self.input_share,
            "output_share": self.output_share,
            "intruders": self.intruders,
            "undecided": self.undecided,
            "kernels": [kernel.to_json() for kernel in self.kernels],
            "layers": [dataclasses.asdict(layer) for layer in self.by_layer()],
        }


class _Measured(NamedTuple):
    """The parts that need the whole kernel, of one kernel or stacked, float32.

    Attributes:
      norm: [], the kernel's Frobenius norm.
      left: [in, m], the leading input directions of the base.
      right: [out, m], its leading output directions.
      cosines: [k, m], of each leading output direction of the changed kernel with them.
      rest: [k], the squared norm of the other part of these directions that the kernel reaches.
      diagonal: [k, steps], of Lanczos' tridiagonal matrix for that part.
      beside: [k, steps], beside its diagonal; the last number is not part of it.
    """

    norm: jax.Array
    left: jax.Array
    right: jax.Array
    cosines: jax.Array
    rest: jax.Array
    diagonal: jax.Array
    beside: jax.Array


def measure_geometry(
    params: Tree,
    lora: Tree,
    *,
    top: int = TOP,
    epsilon: float = EPSILON,
    known: int = KNOWN,
    steps: int = STEPS,
) -> Geometry:
    """Measure the learned change of every adapted kernel, beside the base.

    The cosines are exact where a kernel has at most `known` rows or columns. Otherwise a direction
    that agrees with one beyond the leading `known` stays undecided. Computed in float32: a cosine
    within about 1e-3 of epsilon may fall on either side.

    Args:
      params: the parameters of the untouched base; kernels [in, out] or [layers, in, out].
      lora: {a, b} tree of the change with the scale folded into b, from `Student.delta_lora`.
      top: k, the leading output directions of each changed kernel that are tested.
      epsilon: the |cosine| below which a direction is an intruder, 0 to 1.
      known: the leading directions of the base that are computed; more leave less undecided.
      steps: the Lanczos steps on the rest, at least 1.

    Returns:
      The measures.
    """
    flat = traverse_util.flatten_dict(params)
    pairs = traverse_util.flatten_dict(lora)
    kernels = []
    for path in sorted({path[:-1] for path in pairs}):
        stack = (flat[adapted_leaf(flat, path)], pairs[(*path, "a")], pairs[(*path, "b")])
        layers = range(len(stack[0])) if stack[0].ndim == 3 else [None]
        count = max(known, stack[1].shape[-1])
        for layer in layers:
            parts = stack if layer is None else [part[layer] for part in stack]
            kernel, a, b = map(_on_one_device, parts)
            measured = jax.device_get(_measure(kernel, a, b, count, top, steps))
            kernels.append(
                _kernel(".".join(path), layer, measured, np.asarray(a), np.asarray(b), epsilon)
            )
    return Geometry(tuple(kernels), epsilon)


def _on_one_device(array: Any) -> Any:
    """Gather a matrix that is divided over devices, whose decompositions would send each row."""
    is_divided = isinstance(array, jax.Array) and len(array.sharding.device_set) > 1
    return on_host(array) if is_divided else array


def _relative(kernels: Sequence[KernelGeometry]) -> float:
    change = np.linalg.norm([kernel.change_norm for kernel in kernels])
    base = np.linalg.norm([kernel.kernel_norm for kernel in kernels])
    return float(change / base) if base > 0 else 0.0


def _layer(kernels: Sequence[KernelGeometry]) -> LayerGeometry:
    return LayerGeometry(
        layer=kernels[0].layer,
        relative=_relative(kernels),
        intruders=sum(kernel.intruders for kernel in kernels),
        undecided=sum(kernel.undecided for kernel in kernels),
        tested=sum(len(kernel.cosines_low) for kernel in kernels),
    )


def _kernel(
    module: str,
    layer: int | None,
    measured: _Measured,
    a: np.ndarray,
    b: np.ndarray,
    epsilon: float,
) -> KernelGeometry:
    """The geometry of one kernel, from its decompositions and a [in, R] and b [R, out]."""
    left, values, right = change_triplets(a, b)
    directions = len(values)
    inputs = measured.left[:, :directions]
    outputs = measured.right[:, :directions]
    low, high = _bounds(measured)
    return KernelGeometry(
        module=module,
        layer=layer,
        kernel_norm=float(measured.norm),
        change_norm=float(np.linalg.norm(values)),
        directions=directions,
        input_angles=_angles(left, inputs),
        output_angles=_angles(right, outputs),
        input_share=_share(left * values, inputs),
        output_share=_share(right * values, outputs),
        cosines_low=tuple(low.tolist()),
        cosines_high=tuple(high.tolist()),
        intruders=int(np.sum(high < epsilon)),
        undecided=int(np.sum((low < epsilon) & (high >= epsilon))),
    )


def change_triplets(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decompose a product A B by its factors alone, in float64.

    Args:
      a: [in, R].
      b: [R, out].

    Returns:
      The singular triplets above rounding error in float32: left [in, q], values [q] in descending
      order and right [out, q], with q at most R; 0 for a product of zero.
    """
    left, upper = np.linalg.qr(a.astype(np.float64))
    right, lower = np.linalg.qr(b.astype(np.float64).T)
    core = upper @ lower.T
    rows, columns = core.shape
    # The eigenvalues of [[0, M], [M^T, 0]] are the singular values of M and their negatives. M^T M
    # would lose the small ones. An eigenvector is (u, v) / sqrt(2).
    both = np.block([[np.zeros((rows, rows)), core], [core.T, np.zeros((columns, columns))]])
    values, vectors = np.linalg.eigh(both)
    count = int(np.sum(values > EPS * values[-1]))
    kept = slice(-1, -1 - count, -1)
    pairs = np.sqrt(2) * vectors[:, kept]
    return left @ pairs[:rows], values[kept], right @ pairs[rows:]


def _angles(change: np.ndarray, base: np.ndarray) -> tuple[float, ...]:
    """The principal angles between two orthonormal bases, degrees, ascending."""
    if change.shape[1] == 0:
        return ()
    angles = np.degrees(subspace_angles(change, base.astype(np.float64)))
    return tuple(np.sort(angles).tolist())


def _share(change: np.ndarray, base: np.ndarray) -> float:
    """The part of a change's squared norm in the directions of the base."""
    whole = np.sum(change**2)
    if whole == 0:
        return 0.0
    return float(np.sum((base.T.astype(np.float64) @ change) ** 2) / whole)


def _bounds(measured: _Measured) -> tuple[np.ndarray, np.ndarray]:
    """Bounds [k] on each direction's largest |cosine| with any direction of the base."""
    low = np.minimum(np.max(np.abs(measured.cosines), axis=1).astype(np.float64), 1.0)
    triples = zip(measured.rest, measured.diagonal, measured.beside, strict=True)
    rest = [mass * largest_weight(diagonal, beside) for mass, diagonal, beside in triples]
    return low, np.minimum(np.maximum(low, np.sqrt(rest)), 1.0)


def largest_weight(diagonal: np.ndarray, beside: np.ndarray) -> float:
    """Bound the largest weight of a distribution by its Gauss quadrature.

    Args:
      diagonal: [n], of the tridiagonal matrix of Lanczos' method.
      beside: [n], beside the diagonal; 0 where the steps ended. The last is not used.

    Returns:
      The largest sum of the weights of two neighboring nodes, 0 to 1.
    """
    # Rows after the end would share nodes with those before it.
    ended = np.append(np.flatnonzero(beside[:-1] == 0), len(diagonal) - 1)
    size = ended[0] + 1
    matrix = np.diag(diagonal[:size].astype(np.float64))
    matrix += np.diag(beside[: size - 1].astype(np.float64), 1)
    matrix += np.diag(beside[: size - 1].astype(np.float64), -1)
    _, vectors = np.linalg.eigh(matrix)
    weights = vectors[0] ** 2
    return float(np.max(weights + np.append(weights[1:], 0.0)))


@functools.partial(jax.jit, static_argnames=("known", "top", "steps"))
def _measure(
    kernel: jax.Array, a: jax.Array, b: jax.Array, known: int, top: int, steps: int
) -> _Measured:
    """Measure one kernel; memory holds the vectors of one."""
    with jax.default_matmul_precision("highest"):
        return _measured(kernel, a, b, known, top, steps)


def _measured(
    kernel: jax.Array, a: jax.Array, b: jax.Array, known: int, top: int, steps: int
) -> _Measured:
    kernel = kernel.astype(jnp.float32)
    left, values, right, _ = leading_triplets(kernel, known)
    tuned = leading_triplets(kernel + a @ b, top).right
    cosines = tuned.T @ right

    rest = tuned
    if kernel.shape[0] < kernel.shape[1]:
        # Outputs that the kernel cannot produce belong to none of its directions.
        reached = orthonormal(kernel.T)
        rest = reached @ (reached.T @ rest)
    for _ in range(2):
        rest = rest - right @ (right.T @ rest)
    mass = jnp.sum(rest**2, axis=0)

    def gram_times(vector: jax.Array) -> jax.Array:
        image = kernel.T @ (kernel @ vector)
        return image - right @ (right.T @ image)

    starts = rest / jnp.sqrt(jnp.maximum(mass, EPS**2))
    # No value of the rest is above the last known one.
    largest = values[-1] ** 2
    iterate = functools.partial(_lanczos, gram_times, largest=largest, steps=steps)
    diagonal, beside = jax.vmap(iterate, in_axes=1)(starts)
    norm = jnp.linalg.norm(kernel)
    return _Measured(norm, left, right, cosines, mass, diagonal, beside)


def _lanczos(
    gram_times: Any, start: jax.Array, *, largest: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
    """Lanczos' tridiagonal matrix of a symmetric operator, with full orthogonalization.

    Args:
      gram_times: the product of the operator with a vector [n].
      start: [n], of length 1.
      largest: [], the operator's largest eigenvalue or a bound on it.
      steps: the rows of the matrix.

    Returns:
      The diagonal [steps], and the numbers beside it [steps] with one more than the matrix has.
    """

    def step(basis: jax.Array, number: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        vector = basis[number]
        image = gram_times(vector)
        along = vector @ image
        # One pass leaves rounding error along the earlier vectors; two are enough.
        for _ in range(2):
            image = image - basis.T @ (basis @ image)
        length = jnp.linalg.norm(image)
        ended = length <= ENDED * largest
        following = jnp.where(ended, 0.0, image / jnp.where(ended, 1.0, length))
        basis = basis.at[number + 1].set(following)
        return basis, (along, jnp.where(ended, 0.0, length))

    basis = jnp.zeros((steps + 1, start.shape[0])).at[0].set(start)
    _, (diagonal, beside) = jax.lax.scan(step, basis, jnp.arange(steps))
    return diagonal, beside

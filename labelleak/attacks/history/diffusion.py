"""A diffusion kernel on the own features: alike is what short walks connect.

Rows are joined through anchors, the rows themselves or, of many, the means of
clusters (the anchor graph of Liu, He and Chang, ICML 2010): a row steps to its
nearest anchors, and from an anchor to the rows that are near it. The kernel of
t steps has the eigenvectors of one, and the t-th powers of its eigenvalues.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak.base import Pool

_CHUNK = 4096  # rows whose distances are held at once
_ROUNDS = 8  # of k-means
_RESTARTS = 8


class Spectrum(NamedTuple):
  """Eigenvectors [N, M], of norm 1, and eigenvalues [M] of one step."""

  vectors: chex.Array
  values: np.ndarray


def spectrum(
  key: chex.PRNGKey, x: chex.Array, *, anchors: int, neighbours: int
) -> Spectrum:
  """Returns the spectrum of one step of the walk.

  Args:
    key: of the first anchors.
    x: [N, F] features of all rows.
    anchors: at most so many, M.
    neighbours: that a row steps to.
  """
  x = jnp.asarray(x, jnp.float32)
  centres = x if len(x) <= anchors else _cluster(key, x, anchors)
  neighbours = min(neighbours, len(centres) - 1)
  walk = jnp.concatenate(
    [_walk(x[i : i + _CHUNK], centres, neighbours) for i in _chunks(x)]
  )
  walk = walk / jnp.sqrt(jnp.maximum(walk.sum(0, keepdims=True), 1e-6))
  values, vectors = np.linalg.eigh(np.asarray(walk.T @ walk, np.float64))
  positive = values > 1e-6
  scaled = vectors[:, positive] / np.sqrt(values[positive])
  return Spectrum(walk @ jnp.asarray(scaled, jnp.float32), values[positive])


def pool_spectrum(
  key: chex.PRNGKey, pool: Pool, *, anchors: int, neighbours: int
) -> Spectrum:
  """Returns the `spectrum` of all rows that a party holds."""
  return spectrum(key, pool.all(), anchors=anchors, neighbours=neighbours)


def matern(values: np.ndarray, reach: float) -> np.ndarray:
  """Returns the spectrum of the Matern kernel of some reach, [M].

  Of a walk's eigenvalues [M], it falls as a power of 1 - values, where walks of
  so many steps fall exponentially, and so is less smooth (Borovitskiy et al.,
  "Matern Gaussian processes on graphs", AISTATS 2021; smoothness 2).
  """
  return (1 + reach / 2 * (1 - np.minimum(values, 1.0))) ** -2.0


def group(key: chex.PRNGKey, x: chex.Array, count: int) -> chex.Array:
  """Returns groups [N] of rows x [N, F], the tightest of several k-means."""
  fits = []
  for each in jax.random.split(key, _RESTARTS):
    centres = _cluster(each, x, count)
    near = _nearest(x, centres)
    fits.append((float(jnp.square(x - centres[near]).sum()), near))
  return min(fits, key=lambda fit: fit[0])[1]


def _chunks(x):
  return range(0, len(x), _CHUNK)


@jax.jit
def _distances(x, centres):
  """Returns squared distances [n, M]."""
  norm = lambda a: jnp.square(a).sum(-1)
  square = norm(x)[:, None] + norm(centres)[None] - 2 * x @ centres.T
  return jnp.maximum(square, 0.0)


def _walk(x, centres, neighbours):
  """Returns probabilities of steps to anchors [n, M].

  A Gaussian as wide as the nearest anchor that is none of them is far.
  """
  nearest, index = jax.lax.top_k(-_distances(x, centres), neighbours + 1)
  width = jnp.maximum(-nearest[:, -1:] / 2, 1e-9)
  weights = jnp.maximum(jnp.exp(nearest[:, :-1] / width), 1e-6)
  weights = weights / weights.sum(-1, keepdims=True)
  rows = jnp.arange(len(x))[:, None]
  return jnp.zeros((len(x), len(centres))).at[rows, index[:, :-1]].set(weights)


def _cluster(key, x, count):
  """Returns means [M, F] of k-means; one without members stays."""
  centres = jax.random.choice(key, x, (count,), replace=False)
  for _ in range(_ROUNDS):
    near = _nearest(x, centres)
    members = jnp.zeros(count).at[near].add(1.0)
    sums = jnp.zeros_like(centres).at[near].add(x)
    means = sums / jnp.maximum(members, 1.0)[:, None]
    centres = jnp.where(members[:, None] > 0, means, centres)
  return centres


def _nearest(x, centres):
  parts = [_distances(x[i : i + _CHUNK], centres) for i in _chunks(x)]
  return jnp.concatenate([part.argmin(-1) for part in parts])

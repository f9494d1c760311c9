"""Attacks on the gradient of the classifier's kernel: iDLG and the LLGs.

A class's row sum is the kernel's gradient summed over the head's inputs.
"""

import chex
import jax
import jax.numpy as jnp

from labelleak import hfl, validate
from labelleak.attacks.counts import baseline, evidence, greedy
from labelleak.base import Attack, attack


def idlg() -> Attack:
  """Builds iDLG: names the most negative row sum; the rest is a guess.

  Exact for B = 1 and non-negative head inputs (Zhao et al. 2020).
  """

  def infer(key, view, known):
    first = jnp.argmin(evidence.row_sums(view))
    labels = baseline.draw_labels(key, known)
    return jnp.bincount(labels.at[0].set(first), length=known.num_classes)

  return attack(infer, name='counts.idlg', kind='horizontal')


def llg(*, form: str = 'benchmark') -> Attack:
  """Builds LLG: impact m = (1 + 1/K)/B times the sum of negative row sums.

  Args:
    form: 'benchmark' is the LLBG paper's: the classes that are certain keep
      their score. 'original' subtracts m from them first (Wainakh et al.,
      Algorithm 1); the counts are nearly always the same.

  Raises:
    InputError: no such form.
  """
  validate.one_of('llg: form', form, ('benchmark', 'original'))

  def infer(key, view, known):
    num = known.num_examples
    g = evidence.row_sums(view)
    m = (1 + 1 / known.num_classes) * greedy.negative_sum(g) / num
    after = None if form == 'original' else g
    return greedy.name_labels(g, impact=m, num=num, after=after)

  return attack(infer, name='counts.llg', kind='horizontal')


def llg_plus() -> Attack:
  """Builds LLG+: impact and offset measured on labelled auxiliary examples."""

  def infer(key, view, known):
    x, y = known.labelled
    return _measured_llg(view, known, x, y)

  return attack(
    infer,
    name='counts.llg_plus',
    kind='horizontal',
    needs=('model', 'labelled'),
  )


def llg_star(*, inputs: str = 'random', examples: int = 64) -> Attack:
  """Builds LLG*: LLG+ with dummy inputs in place of auxiliary examples.

  Args:
    inputs: 'zeros', 'ones' or 'random' (standard normal).
    examples: how many dummy inputs are drawn.

  Raises:
    InputError: no such inputs.
  """
  draw = {
    'zeros': lambda key, shape: jnp.zeros(shape),
    'ones': lambda key, shape: jnp.ones(shape),
    'random': jax.random.normal,
  }
  validate.one_of('llg_star: inputs', inputs, draw)

  def infer(key, view, known):
    x = draw[inputs](key, (examples, *known.model.shape))
    # The same dummy inputs carry every label.
    y = jnp.full((examples, known.num_classes), 1.0)
    return _measured_llg(view, known, x, y)

  return attack(
    infer, name='counts.llg_star', kind='horizontal', needs=('model',)
  )


def _measured_llg(
  view: hfl.View, known: hfl.Known, x: chex.Array, y: chex.Array
) -> chex.Array:
  """Counts greedily on g - offset with a measured impact, [K].

  A single-class batch of class i has the row sums g_j = mean (p_j - [i = j]) s
  with s the sum of an example's head inputs. Adding t to every entry of the
  kernel adds t * s to each logit, so one forward-mode pass gives p and s.
  """
  params = view.variables['params']
  kernel, _ = hfl.head(params)

  def logits(kernel):
    head = {**params['head'], 'kernel': kernel}
    variables = {**view.variables, 'params': {**params, 'head': head}}
    return known.model.apply(variables, x)

  out, slope = jax.jvp(logits, (kernel,), (jnp.ones_like(kernel),))
  s = slope[:, :1]
  p = jax.nn.softmax(out)
  examples = y.sum(0)
  share = y / jnp.maximum(examples, 1.0)[None]  # [M, K]
  offsets = share.T @ (p * s)  # [i, j]: mean p_j s over class i
  single = jnp.diag(offsets) - (share * s).sum(0)
  n, num, steps = known.num_classes, known.num_examples, known.steps
  m = single.sum() / (examples > 0).sum() * (1 + 1 / n) * steps / num
  others = (examples > 0)[:, None] * (1 - jnp.eye(n))
  sums = steps * (others * offsets).sum(0)
  offset = sums / jnp.maximum(others.sum(0), 1.0)
  g = evidence.row_sums(view)
  after = g - offset - m * (g < 0)
  return greedy.name_labels(g, impact=m, num=num, after=after)

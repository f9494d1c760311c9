"""Label counts of one client's batch, from the gradient of the classifier.

Every attack returns counts [K], integers that sum to C * B. It reads the
classifier of `view.grads` (`hfl.head`), one round at a time; vmap over trials.

With mean cross entropy the bias gradient of class i is

  beta_i = -lambda_i / B + mean_k p_i(x_k)             (LLBG paper, Eq. 3)

with lambda_i the count and p the softmax. FedAVG sends the sum of S such
gradients over slices of b = ceil(B/S) examples, so one example weighs 1/b
there. The kernel's gradient is the same times the head's input; LLG sums it
over the inputs.

Sources: LLBG and EBI from Gat and Sharif, "Harmful Bias" (AISec 2024); LLG,
LLG+, LLG* from Wainakh et al., "User-Level Label Leakage from Gradients" (PETS
2022); iDLG from Zhao et al. (arXiv 2001.02610).

Where the papers leave a case open: with more negative classes than examples the
most negative ones are named; entries that are not finite count as 0, no
evidence; ties go to the class of lower index.
"""

import functools
from typing import Optional

import chex
import jax
import jax.numpy as jnp

from labelleak import hfl
from labelleak.attacks.counts import allocation, expectation
from labelleak.base import Attack, InputError, attack
from labelleak.hfl import Known

_PATH_ERROR = 0.3  # relative, of the mean softmax that a replay or a line tells


def random() -> Attack:
  """Uniform labels: the baseline."""

  def infer(key, view, known):
    labels = jax.random.randint(key, (total(known),), 0, known.num_classes)
    return jnp.bincount(labels, length=known.num_classes)

  return attack(infer, name='counts.random')


def idlg() -> Attack:
  """Names the class with the most negative row sum; the rest is a guess.

  Exact for B = 1 and non-negative head inputs (Zhao et al. 2020).
  """

  def infer(key, view, known):
    first = jnp.argmin(_row_sums(view))
    labels = jax.random.randint(key, (total(known),), 0, known.num_classes)
    return jnp.bincount(labels.at[0].set(first), length=known.num_classes)

  return attack(infer, name='counts.idlg')


def llg(*, form: str = 'benchmark') -> Attack:
  """LLG: impact m = (1 + 1/K)/B times the sum of the negative row sums.

  Args:
    form: 'benchmark' is the LLBG paper's: the classes that are certain keep
      their score. 'original' subtracts m from them first (Wainakh et al.,
      Algorithm 1); the counts are nearly always the same.
  """
  if form not in ('benchmark', 'original'):
    raise InputError(f'form={form!r}; use "benchmark" or "original".')

  def infer(key, view, known):
    g = _row_sums(view)
    certain = g < 0
    m = (1 + 1 / known.num_classes) * _sum(g, certain) / total(known)
    after = g - m * certain if form == 'original' else g
    return _fill(g, after, certain, m, total(known))

  return attack(infer, name='counts.llg')


def llg_plus() -> Attack:
  """LLG+: impact and offset measured on labelled auxiliary examples.

  Needs `known.model` and `known.labelled`.
  """

  def infer(key, view, known):
    return _calibrated_llg(view, known, *known.labelled)

  return attack(infer, name='counts.llg_plus', needs=('model', 'labelled'))


def llg_star(*, inputs: str = 'random', examples: int = 64) -> Attack:
  """LLG*: as LLG+, with dummy inputs in place of auxiliary examples.

  Needs `known.model`.

  Args:
    inputs: 'zeros', 'ones' or 'random' (standard normal).
    examples: how many dummy inputs are drawn.
  """
  draw = {
    'zeros': lambda key, shape: jnp.zeros(shape),
    'ones': lambda key, shape: jnp.ones(shape),
    'random': jax.random.normal,
  }
  if inputs not in draw:
    raise InputError(f'inputs={inputs!r}; use one of {", ".join(draw)}.')

  def infer(key, view, known):
    x = draw[inputs](key, (examples, *known.model.shape))
    return _calibrated_llg(view, known, x, None)

  return attack(infer, name='counts.llg_star', needs=('model',))


def ebi() -> Attack:
  """EBI: LLG on the bias, impact m = (sum of negative entries)/B (Eq. 6)."""

  def infer(key, view, known):
    beta = _bias(view, 'ebi')
    certain = beta < 0
    m = _sum(beta, certain) / total(known)
    return _fill(beta, beta - m * certain, certain, m, total(known))

  return attack(infer, name='counts.ebi')


def llbg(*, confidence: Optional[float | str] = None) -> Attack:
  """LLBG: one example of class i weighs -(1 - v_i)/b in the bias gradient.

  Algorithms 1 and 2 of the paper, with the impact inside the test for negative
  entries as in Algorithm 2 and the released code.

  Args:
    confidence: None for untrained models (v = 0); a number for the same
      confidence gamma in all classes; 'aux' for the mean own-class softmax of
      the examples `known.labelled` under `known.model`.
  """
  if isinstance(confidence, str) and confidence != 'aux':
    raise InputError(f'confidence={confidence!r}; use None, a number or "aux".')
  if isinstance(confidence, float | int) and not 0 <= confidence < 1:
    raise InputError(f'confidence={confidence} must lie in [0, 1).')

  def infer(key, view, known):
    beta = _bias(view, 'llbg')
    v = confidence or 0.0
    if confidence == 'aux':
      x, y = known.labelled
      probs = jax.nn.softmax(known.model.apply(view.variables, x))
      v = (probs * y).sum(0) / jnp.maximum(y.sum(0), 1.0)
    size = max(hfl.step_sizes(known.batch_size, known.steps))
    m = -(1.0 - v) / (size * known.clients) * jnp.ones_like(beta)
    certain = beta < 0
    return _fill(beta, beta - m * certain, certain, m, total(known))

  needs = ('model', 'labelled') if confidence == 'aux' else ()
  return attack(infer, name='counts.llbg', needs=needs)


def calibrated(
  *, examples: int = 32, replay: int = 4, replays: int = 3
) -> Attack:
  """Ours: the Bayes allocation under a model of the update.

  Where the published attacks subtract a fixed impact greedily, this one
  predicts what each class would show with k examples and names the B labels of
  highest expected count accuracy (`allocation`). The prediction knows the
  ragged last step; takes the mean softmax and its spread from the model's own
  outputs and from replaying the local steps (`expectation`); and infers, from
  the update itself, what clipping left of its scale, how noisy it is, and how
  many examples an ordinary class holds. Where steps are clipped and noisy, the
  model also tells how to read the kernel along with the bias, and the norm that
  the clip acted on.

  It uses what is granted of `known.model` (else the softmax is taken as
  uniform), `labelled` or `unlabelled` examples (else it draws dummies; without
  labels there is one softmax for all classes), `lr`, and `defense` (None:
  unknown scale and noise; else exactly these transforms).

  Args:
    examples: dummy inputs drawn where no auxiliary examples are granted.
    replay: inputs that the local steps are replayed on.
    replays: how often they are at most, each time with the counts found so far.

  Raises:
    InputError: an argument below 1. (infer) A head without bias.
  """
  if min(examples, replay, replays) < 1:
    raise InputError(
      f'counts.calibrated: examples={examples}, replay={replay} and'
      f' replays={replays} must be at least 1.'
    )

  def infer(key, view, known):
    beta = _bias(view, 'calibrated')
    if known.model is None:
      softmax = expectation.uniform(known.num_classes)
      return allocation.infer(beta, softmax, known)
    if known.labelled:
      x = known.labelled.x
    elif known.unlabelled is not None:
      x = known.unlabelled
    else:
      x = expectation.dummies(key, examples, known.model.shape)
    softmax = expectation.measured(view, known, x)
    beta, hints = _reading(view, known, x, beta)
    allocate = functools.partial(allocation.infer, beta, known=known, **hints)
    if known.labelled or not known.lr or known.steps == 1:
      return allocate(softmax)

    def again():
      # A path errs most on the classes that it gives most.
      allot = functools.partial(allocate, error=_PATH_ERROR)

      # An error of the counts moves the path, and that the counts, often past
      # the truth: the mean of the paths so far damps it.
      def refine(state):
        num, _, counts, mean = state
        path = expectation.replayed(view, known, x[:replay], counts)
        mean = mean + (path - mean) / num
        rows = jnp.broadcast_to(mean, softmax.mean.shape)
        found = allot(softmax._replace(mean=rows))
        return num + 1, (found != counts).any(), found, mean

      def more(state):
        num, changed, *_ = state
        return changed & (num <= replays)

      counts = allot(softmax)
      start = jnp.asarray(1), jnp.asarray(True), counts, jnp.zeros_like(beta)
      # The first stands outside the loop: matmuls in loops are slow on CPUs.
      return jax.lax.while_loop(more, refine, refine(start))[2]

    # Replaying pays where the softmax moved by a part of what an example adds.
    large = softmax.moved > 0.05 / known.batch_size
    return jax.lax.cond(large, again, lambda: allocate(softmax))

  return attack(infer, name='counts.calibrated')


def _reading(view, known, x, beta):
  """Under clipping and noise: the kernel's share of beta, and the norm's."""
  noise, clipped = allocation.granted(known)
  kernel, _ = hfl.head(view.grads)
  if not (noise and clipped) or kernel is None or known.clients > 1:
    return beta, {}
  kernel = _finite(kernel)
  mean = expectation.head_input(view, known, x)
  h = expectation.heard(beta, kernel, mean)
  louder = jnp.linalg.norm(h) / jnp.linalg.norm(mean)
  ratio = expectation.norm_ratio(view, known, x, louder)
  beta, quiet = expectation.fused(beta, kernel, h)
  return beta, dict(quiet=quiet, ratio=ratio)


def total(known: Known) -> int:
  """Examples behind one round's update: C * B."""
  return known.clients * known.batch_size


def _fill(score, after, certain, impact, num):
  """Both stages: the certain classes once each, then the greedy rest.

  Args:
    score: [K]; the lowest are named first where not all certain ones fit.
    after: [K] score once the certain classes have been named.
    certain: [K] bool.
    impact: [] or [K], negative: what one example adds to its class's score.
    num: how many labels to name.

  Returns:
    counts [K] with sum num.
  """
  chex.assert_rank([score, after, certain], 1)
  impact = jnp.broadcast_to(impact, score.shape)
  rank = jnp.argsort(jnp.argsort(jnp.where(certain, score, jnp.inf)))
  counts = (certain & (rank < num)).astype(jnp.int32)

  def name(_, carry):
    counts, after = carry
    left = counts.sum() < num
    chosen = jnp.argmin(after)
    counts = counts.at[chosen].add(left.astype(jnp.int32))
    return counts, after.at[chosen].add(-impact[chosen])

  return jax.lax.fori_loop(0, num, name, (counts, after))[0]


def _calibrated_llg(view, known, x, y):
  """LLG+ and LLG*: greedy on g - offset with a measured impact.

  A single-class batch of class i has the row sums g_j = mean (p_j - [i = j]) s
  with s the sum of an example's head inputs. Adding t to every entry of the
  kernel adds t * s to each logit, so one forward-mode pass gives p and s.
  """
  kernel, _ = hfl.head(view.variables['params'])

  def logits(kernel):
    params = view.variables['params']
    params = {**params, 'head': {**params['head'], 'kernel': kernel}}
    return known.model.apply({**view.variables, 'params': params}, x)

  out, slope = jax.jvp(logits, (kernel,), (jnp.ones_like(kernel),))
  s = slope[:, :1]
  p = jax.nn.softmax(out)
  if y is None:  # the same dummy inputs carry every label
    y = jnp.full((x.shape[0], known.num_classes), 1.0)
  seen = y.sum(0)
  share = y / jnp.maximum(seen, 1.0)[None]  # [M, K]
  off = share.T @ (p * s)  # [i, j]: mean p_j s over class i
  own = jnp.diag(off) - (share * s).sum(0)
  n = known.num_classes
  steps = known.steps
  m = own.sum() / (seen > 0).sum() * (1 + 1 / n) * steps / total(known)
  others = (seen > 0)[:, None] * (1 - jnp.eye(n))
  offset = steps * (others * off).sum(0) / jnp.maximum(others.sum(0), 1.0)
  g = _row_sums(view)
  certain = g < 0
  return _fill(g, g - offset - m * certain, certain, m, total(known))


def _row_sums(view):
  kernel, _ = hfl.head(view.grads)
  if kernel is None:
    raise InputError(
      "LLG and iDLG read the gradient of the head's kernel, which this update"
      ' lacks; use counts.llbg or counts.ebi on its bias.'
    )
  return _finite(kernel.sum(0))


def _bias(view, name):
  _, bias = hfl.head(view.grads)
  if bias is None:
    raise InputError(
      f"counts.{name} reads the gradient of the head's bias, but this head has"
      ' none; use counts.llg, which reads the kernel.'
    )
  return _finite(bias)


def _finite(values):
  return jnp.where(jnp.isfinite(values), values, 0.0)


def _sum(values, where):
  return jnp.where(where, values, 0.0).sum()

"""Vertical FL: what inferred labels tell about another private feature.

Fu et al. (USENIX Security 2022), Appendix E: a party that has inferred the
labels uses them as one more feature of its own to infer a property that it does
not hold. Their gain, .6443 to .7237, is one seed's. Here a trial is a seed of
its own for everything, known rows are drawn at random from either class, and
each trial is its own control: the same network from the same start on the same
rows, with the extra feature blank, inferred, and true. The attack that guesses
is the placebo.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax

from labelleak import data, models, sweep, vfl
from labelleak.base import InputError
from labelleak.data import plans
from labelleak.experiments.vfl import fitting, joint, model_completion
from labelleak.metrics import significance


def experiment(*, config: ConfigDict) -> Callable:
  """Completes the attacker's bottom, and learns a property with its labels.

  The property is whether column `exploit.column` of the data exceeds its median
  over the training rows; no party holds it. The attacker knows it for
  `exploit.per_class` rows of either side, drawn independently of the rows whose
  label it knows, and is scored on the others of the training rows.

  Args:
    config: fields as in `configs/common.py: completion`, and `exploit` with
      `column`, `per_class` and the training's `lr`, `epochs`, `batch_size`.

  Returns:
    measure(progress) -> results: `property_accuracy` with the inferred labels,
    `property_without` and `property_true`; see `labelleak.experiments`. A row's
    `gain` judges the paired differences of the first two.

  Raises:
    InputError: anything in the config that cannot run.
  """
  config = config.copy_and_resolve_references()
  setup = model_completion.prepare(config)
  if list(setup.runs) != [None]:
    raise InputError(
      'exploit trains all seeds at once, without an optimizer of the attacker;'
      ' leave active attacks out.'
    )
  z = _property(config, setup.source)
  seeds = [config.seed + t for t in range(config.trials)]

  def measure(progress):
    model = setup.runs[None]
    states = fitting.fit_all(
      config, model, setup.source, seeds, (config.train.steps,)
    )[-1]
    keys = sweep.trial_keys(jax.random.key(config.seed), config.trials)
    values = [[] for _ in setup.specs]
    for trial in range(config.trials):
      state = jax.tree.map(lambda a, t=trial: a[t], states)
      main = model_completion.main(setup, model, state)
      view = vfl.final(state, config.attacker)
      for i in range(len(setup.specs)):
        learned = _exploited(setup, i, trial, view, keys[trial], z)
        values[i].append(learned | main)
      progress(1)
    return [
      dict(result, gain=_judged(result['values']))
      for result in model_completion.results(setup, values)
    ]

  return measure


def _judged(values):
  """The paired gain by inferred labels."""
  found = values['property_accuracy'] - values['property_without']
  return dict(significance.gain(found), over='without labels')


def _property(config, source: data.Source):
  """Whether the column exceeds its median, [N] int.

  Raises:
    InputError: no such column, or too few rows on a side.
  """
  column, per_class = config.exploit.column, config.exploit.per_class
  if len(source.shape) != 1 or not 0 <= column < source.shape[0]:
    raise InputError(
      f'exploit.column={column} is no column of {source.name}, whose examples'
      f' have shape {source.shape}; change it.'
    )
  values = source.take(np.arange(len(source.y)))[:, column]
  z = (values > np.median(values)).astype(int)
  fewest = np.bincount(z, minlength=2).min()
  if not 1 <= per_class < fewest:
    raise InputError(
      f'exploit.per_class={per_class} must lie in 1..{fewest - 1}; change it.'
    )
  return z


def _exploited(setup, i, trial, view, key, z):
  """Accuracy on the property without, with inferred and with true labels."""
  config, source = setup.config, setup.source
  fit_key, net_key = jax.random.split(key)  # one network for all attacks
  fit_key = jax.random.fold_in(fit_key, i)
  found, predict = model_completion.attacked(setup, i, trial, view, fit_key)
  model = setup.runs[None]
  mine = lambda x: model.split(x)[config.attacker]
  logits = joint.scores(mine, predict, source)
  inferred = np.asarray(jax.nn.softmax(logits))[:, 0]
  x = mine(source.take(np.arange(len(source.y))))
  extra = np.stack([0 * inferred, _standard(inferred), _standard(source.y)])
  rng = np.random.default_rng([config.seed, trial, 1])
  order = rng.permutation(len(z))
  per_class = config.exploit.per_class
  rows = np.concatenate([order[z[order] == k][:per_class] for k in (0, 1)])
  batches = _batches(config, len(rows), trial)
  options = config.exploit.lr, config.exploit.momentum
  named = _learn(*options, net_key, x, extra, z, rows, *batches)
  rest = np.setdiff1d(np.arange(len(z)), rows)
  without, with_inferred, with_true = (np.asarray(named) == z)[:, rest].mean(1)
  return dict(
    property_accuracy=float(with_inferred),
    property_without=float(without),
    property_true=float(with_true),
    **found,
  )


def _standard(values):
  """Mean 0 and deviation 1; a constant stays 0."""
  return (values - values.mean()) / max(values.std(), 1e-6)


def _batches(config, num, trial):
  """Rows [n, B] among the known ones, and masks, of all steps."""
  size, epochs = config.exploit.batch_size, config.exploit.epochs
  numbers = np.arange(-(-num // size) * epochs) + 1
  return plans.epochs(num, size, numbers, seed=(config.seed, trial))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _learn(lr, momentum, key, x, extra, z, rows, index, mask):
  """Named sides [E, N] of networks on features x [N, F] and extra [E, N].

  In -> 20 -> 20 -> 2 with ReLU by SGD, as released; all E from one start.
  """
  net = models.load('mlp.fcnn', num_classes=2, widths=(20, 20))
  tx = optax.sgd(lr, momentum)

  def one(extra):
    full = jnp.concatenate([x, extra[:, None]], 1)
    own, truth = full[rows], jnp.asarray(z)[rows]

    def step(carry, batch):
      variables, opt_state = carry
      index, mask = batch

      def loss_fn(variables):
        logits = net.apply(variables, own[index])
        losses = optax.softmax_cross_entropy_with_integer_labels(
          logits, truth[index]
        )
        return (losses * mask).sum() / mask.sum()

      grads = jax.grad(loss_fn)(variables)
      updates, opt_state = tx.update(grads, opt_state)
      return (optax.apply_updates(variables, updates), opt_state), None

    variables = net.init(key, full[:1])
    start = variables, tx.init(variables)
    (variables, _), _ = jax.lax.scan(step, start, (index, mask))
    return net.apply(variables, full).argmax(-1)

  return jax.vmap(one)(extra)

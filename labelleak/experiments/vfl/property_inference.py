"""Vertical FL: what inferred labels tell about another private feature.

Fu et al. (USENIX Security 2022), Appendix E: a party that has inferred the
labels uses them as one more feature of its own to infer a property that it does
not hold. Their gain, .6443 to .7237, is one seed's. Here a trial is a seed of
its own for everything, known rows are drawn at random from either class, and
each trial is its own control: the same network from the same start on the same
rows, with the extra feature blank, inferred, and true. The attack that guesses
is the placebo.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import models, sweep, validate, vfl
from labelleak.base import InputError
from labelleak.data import plans
from labelleak.experiments import Measure, fields
from labelleak.experiments.vfl import model_completion
from labelleak.metrics import significance


def experiment(*, config: fields.Property) -> Measure:
  """Prepares completed bottoms, and a property learned with their labels.

  The property is whether column `exploit.column` of the data exceeds its median
  over the training rows; no party holds it. The attacker knows it for
  `exploit.per_class` rows of either side, drawn independently of the rows whose
  label it knows, and is scored on the others of the training rows. Values are
  `property_accuracy` with the inferred labels, `property_without` and
  `property_true`; a row's `gain` judges the paired differences of the first
  two.

  Args:
    config: fields as in `configs/common.py: completion`, and `exploit` with
      `column`, `per_class` and the training's `lr`, `epochs`, `batch_size`.

  Raises:
    InputError: anything in the config that cannot run.
  """
  setup = model_completion.prepare(config)
  if list(setup.joints) != [None]:
    raise InputError(
      'property_inference trains all seeds at once, without an optimizer of the'
      ' attacker; leave active attacks out.'
    )
  joint, options = setup.joint, config.exploit.to_dict()
  z = _property(joint.source, options.pop('column'), options['per_class'])
  seeds = [config.seed + t for t in range(config.trials)]

  def measure(progress):
    steps = joint.training.steps
    states = joint.fit_all(seeds, (steps,), workdir=progress.checkpoints)[-1]

    def trial(t):
      state = jax.tree.map(lambda a: a[t], states)
      main = model_completion.score_main(joint, state)
      view = vfl.view_after_training(state, joint.attacker)
      values = []
      for place in range(len(setup.attackers)):
        scores, predict = model_completion.complete(setup, place, t, view)
        learned = _exploit(joint, predict, z, config.seed, t, **options)
        values.append(learned | scores | main)
      return values

    trials = sweep.map_trials(
      trial, config.trials, finished=progress.finished, callback=progress
    )
    values = list(zip(*trials))
    return [
      result._replace(details=dict(gain=_gain(result.values)))
      for result in model_completion.results(setup, values)
    ]

  return measure


def _gain(values):
  """Returns the paired gain by inferred labels."""
  gain = values['property_accuracy'] - values['property_without']
  return dict(significance.gain(gain), over='without labels')


def _property(source, column, per_class):
  """Returns whether the column exceeds its median, [N] int.

  Raises:
    InputError: no such column, or too few rows on a side.
  """
  if len(source.shape) != 1 or not 0 <= column < source.shape[0]:
    raise InputError(
      f'exploit.column={column} is no column of {source.name}, whose examples'
      f' have shape {source.shape}; change it.'
    )
  values = source.take(np.arange(len(source.y)))[:, column]
  z = (values > np.median(values)).astype(int)
  fewest = np.bincount(z, minlength=2).min()
  validate.whole('exploit.per_class', per_class, 1, fewest - 1)
  return z


def _exploit(
  joint,
  predict,
  z,
  seed,
  trial,
  *,
  per_class,
  epochs,
  batch_size,
  lr,
  momentum,
):
  """Returns accuracy on z without, with inferred and with true labels."""
  source = joint.source
  logits = vfl.score_rows(predict, source, joint.part)
  inferred = np.asarray(jax.nn.softmax(logits))[:, 0]
  x = joint.part(source.take(np.arange(len(source.y))))
  extra = np.stack([0 * inferred, _standard(inferred), _standard(source.y)])
  rng = np.random.default_rng([seed, trial, 1])
  order = rng.permutation(len(z))
  rows = np.concatenate([order[z[order] == k][:per_class] for k in (0, 1)])
  numbers = np.arange(-(-len(rows) // batch_size) * epochs) + 1
  index, mask = plans.epochs(len(rows), batch_size, numbers, seed=(seed, trial))
  key = sweep.key(seed + trial, 'property')  # one network for all attacks
  sides = _learn(lr, momentum, key, x, extra, z, rows, index, mask)
  others = np.setdiff1d(np.arange(len(z)), rows)
  hits = (np.asarray(sides) == z)[:, others].mean(1)
  without, accuracy, true = map(float, hits)
  return dict(
    property_accuracy=accuracy, property_without=without, property_true=true
  )


def _standard(values):
  """Returns values of mean 0 and deviation 1; a constant becomes 0."""
  return (values - values.mean()) / max(values.std(), 1e-6)


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

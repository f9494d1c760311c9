"""The horizontal round of a config; the one reader of its fields."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, Optional

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from labelleak import (
  annotation,
  compilation,
  data,
  defenses,
  he,
  hfl,
  registry,
  runs,
  spec,
  train,
  validate,
)
from labelleak import sweep as sweeps
from labelleak.base import Batch, InputError, Model
from labelleak.data import plans
from labelleak.experiments import fields, misfits, sources
from labelleak.experiments.hfl import clients, main_task
from labelleak.experiments.result import Setting
from labelleak.models import weights

# What a config may grant beyond the class count and the batch size.
GRANTS = (
  *('lr', 'steps', 'clients', 'client', 'defense', 'model'),
  *('labelled', 'unlabelled'),
)

# (key, variables, batches [C, B, ...]) -> the server's view
Observe = Callable[[chex.PRNGKey, chex.ArrayTree, Batch], hfl.View]


@dataclasses.dataclass(frozen=True)
class Round:
  """One round of horizontal FL, and what comes before it.

  Attributes:
    source: the split that clients draw from.
    rows: of it, those that clients hold.
    model: the classifier.
    observe: (key, variables, batches [C, B, ...]) -> what the server sees.
    rounds: R, that the server observes of these clients.
    shifting: whether each round is of other examples.
    lr: of a step of the server between them.
    batch_size: B, of a round.
    plan: how a client draws what it holds; see `plans.draw`.
    num_clients: C.
    training: options of `train.classifier`, run before; None: untrained.
    weights: file of pretrained weights; None: none.
    known: what can be granted, by field of `hfl.Known`.
    setting: identifies the point.
    main_task: what the defenses cost.
    aggregate: that reveals updates in `observe`.
    max_hours: that encryption may take.
    seed: of initialisation, training and batches.
  """

  source: data.Source
  rows: np.ndarray
  model: nn.Module
  observe: Observe
  rounds: int
  shifting: bool
  lr: float
  batch_size: int
  plan: Mapping[str, Any]
  num_clients: int
  training: Optional[Mapping[str, Any]]
  weights: Optional[str]
  known: Mapping[str, Any]
  setting: Setting
  main_task: main_task.MainTask
  aggregate: he.Aggregate
  max_hours: float
  seed: int

  def draw(self, index: np.ndarray) -> Batch:
    """Returns the batches of trials [n], leaves [n, C, B, ...].

    They depend on (seed, trial) alone, hence are the same for every attack.
    Where rounds shift, a client draws what it holds for all of them, R B rows.
    """
    source, clients = self.source, range(self.num_clients)
    y = source.y[self.rows]
    drawn = np.stack(
      [
        plans.draw(self.seed, trial * len(clients) + c, y, **self.plan)
        for trial in index.tolist()
        for c in clients
      ]
    ).reshape(len(index), len(clients), -1)
    drawn = self.rows[drawn]
    x = source.take(drawn.reshape(-1)).reshape(*drawn.shape, *source.shape)
    y = np.eye(source.num_classes, dtype=np.float32)[source.y[drawn]]
    return Batch((x,), y, drawn, np.ones(drawn.shape, np.float32))

  def select(self, batches: Batch, number: chex.Array | int) -> Batch:
    """Returns what round `number` from 0 is of, leaves [C, B, ...].

    Args:
      batches: of `draw`, of one trial.
      number: of the round; where rounds do not shift, all are of the same.
    """
    if not self.shifting:
      return batches
    start = number * self.batch_size
    return jax.tree.map(
      lambda a: jax.lax.dynamic_slice_in_dim(a, start, self.batch_size, 1),
      batches,
    )

  def check_cost(self, params: chex.ArrayTree, trials: int) -> None:
    """Refuses encryption beyond `max_hours`, or beyond what a key may open.

    Args:
      params: of the model, or their shapes.
      trials: T, of R rounds each.
    """
    if self.aggregate.scheme is None:
      return
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    steps = trials * self.rounds
    inputs = size * self.num_clients
    cost = he.estimate(
      self.aggregate, num_inputs=inputs, num_outputs=size, num_nonzeros=inputs
    )
    he.check_hours(cost, steps=steps, max_hours=self.max_hours)
    he.check_openings(self.aggregate, num_outputs=size, steps=steps)

  def advance(
    self, variables: chex.ArrayTree, view: hfl.View
  ) -> chex.ArrayTree:
    """Returns what the server sends next: `variables` after its view's step."""
    step = lambda p, g: p - self.lr * g
    params = jax.tree.map(step, variables['params'], view.grads)
    return {**variables, 'params': params}

  def shapes(self) -> chex.ArrayTree:
    """Returns the shapes of the model's variables, once all of it was traced.

    Raises:
      InputError: the model does not run on examples of this data set, weights
        do not fit it, or it cannot be trained.
    """
    with misfits.refuse(self.setting.model, self.source.shape):
      shapes = jax.eval_shape(self._init)
    if self.weights:
      weights.load(self.weights, shapes)
    if self.training:
      dry = functools.partial(
        self._train, steps=0, workdir=None, progress=False
      )
      jax.eval_shape(dry, shapes)
    return shapes

  def fit(
    self, workdir: Optional[str] = None
  ) -> tuple[chex.ArrayTree, Setting]:
    """Returns the variables to attack, and the setting with their accuracy.

    All trials share one initialisation, as in the published runs.

    Args:
      workdir: of the point, where the state of a training is kept for as long
        as that runs, unless the training has its own.
    """
    variables = compilation.jit_once(self._init)()
    if self.weights:
      variables = weights.load(self.weights, variables)
    if self.training:
      kept = dict(workdir=workdir, every=runs.EVERY)
      kept = {} if self.training.get('workdir') else kept
      variables = self._train(variables, **kept)
    if not self.setting.trained:
      return variables, self.setting
    accuracy = round(train.accuracy(self.model, variables, self.source), 4)
    extra = dict(self.setting.extra, accuracy=accuracy)
    return variables, self.setting._replace(extra=extra)

  def _init(self):
    example = jnp.zeros((1, *self.source.shape))
    return self.model.init(sweeps.key(self.seed, 'init'), example)

  def _train(self, variables, **override):
    """A defense is part of the training's own state: it starts anew with it."""
    return train.classifier(
      self.model, variables=variables, **self.training | override
    )


def build(config: ConfigDict) -> Round:
  """Returns the round of a horizontal config.

  Raises:
    InputError: a field that is missing or out of range, a name that does not
      exist, data that are not there.
  """
  for field in ('clients', 'queries', 'rounds', 'per_device'):
    if config[field] is not None and config[field] < 1:
      raise InputError(f'{field}={config[field]} must be at least 1; raise it.')
  validate.positive('he.max_hours', config.he.max_hours)
  load = functools.partial(sources.load, config.dataset, config.data_dir)
  source = load()
  model = registry.build(
    'models', config.model.to_dict(), num_classes=source.num_classes
  )
  apply = lambda variables, x: model.apply(variables, x)
  specs = defenses.canonical(config.defense)
  at_step, at_update = defenses.split(specs)
  step = defenses.build(at_step, only='gradient')
  update = defenses.build(at_update, only='gradient')
  aggregate = registry.build('he', config.aggregate.to_dict())
  shifting = config.get('shifting', False)  # which older configs lack
  held = config.batch_size * (config.rounds if shifting else 1)
  if shifting and held > len(source.y):
    raise InputError(
      f'shifting=True: rounds={config.rounds} of batch_size={config.batch_size}'
      f' need {held} rows, and {source.name} has {len(source.y)}; lower one of'
      ' them.'
    )
  queries = config.queries  # not of the config of a later point
  train_locally = clients.slices
  described = config.get('client')  # which older configs lack
  if described is not None:
    train_locally = functools.partial(clients.described, described)
  training = train_locally(
    model,
    batch_size=config.batch_size,
    lr=config.lr,
    steps=config.local_steps,
    step_defense=step.gradient if at_step else None,
  )
  grants = tuple(a.get('known', config.known) for a in config.attacks)
  clients.check_grants(training.client, grants)
  labelled, rows = None, np.arange(len(source.y))
  granted = {*config.known}.union(*(a.get('known', ()) for a in config.attacks))
  if granted & {'labelled', 'unlabelled'}:
    labelled, rows = sources.auxiliary(
      load,
      config.aux.split,
      per_class=config.aux.per_class,
      overlap=config.aux.overlap,
      batch_size=config.batch_size,
      seed=config.seed,
    )
  task = main_task.build(
    config.get('main_task'),
    dataset=config.dataset,
    model=config.model,
    data_dir=config.data_dir,
    defense=specs,
    seed=config.seed,
  )
  setting = Setting(
    data=source.name,
    model=spec.plain(config.model),
    num_classes=source.num_classes,
    batch_size=config.batch_size,
    trained=bool(config.train or config.weights),
    defense=spec.plain(specs),
    stands_for={k: v for k, v in config.stands_for.items() if v},
    extra=dict(
      **training.facts,
      clients=config.clients,
      partition=config.partition,
      **{f: config[f] for f in ('queries', 'rounds') if config[f] > 1},
      **({'shifting': True} if shifting else {}),
      **task.facts,
    ),
  )
  return Round(
    source=source,
    rows=rows,
    model=model,
    observe=lambda key, variables, batches: hfl.observe(
      key,
      training.update,
      variables,
      batches,
      defense=update.gradient,
      aggregate=aggregate,
      queries=queries,
    ),
    rounds=config.rounds,
    shifting=shifting,
    lr=training.lr,
    batch_size=config.batch_size,
    plan=dict(
      num_classes=source.num_classes,
      partition=config.partition,
      batch_size=held,
      per_class_cap=config.per_class_cap,
    ),
    num_clients=config.clients,
    training=_training(config.train, (*at_step, *at_update), load, config.seed),
    weights=config.weights,
    known=dict(
      steps=training.steps,
      clients=config.clients,
      lr=training.lr,
      client=training.client,
      defense=defenses.view_strengths(
        step.strengths,
        update.strengths,
        steps=training.steps,
        queries=config.queries,
      ),
      model=Model(apply, source.shape, source.pixel_range),
      labelled=labelled,
      unlabelled=labelled and labelled.x,
    ),
    setting=setting,
    main_task=task,
    aggregate=aggregate,
    max_hours=config.he.max_hours,
    seed=config.seed,
  )


def _training(options, specs, load, seed) -> Optional[dict[str, Any]]:
  """Returns the arguments of the training before the attack, if any."""
  if not options:
    return None
  options = dict(options)
  annotation.check('config.train', options, fields.Classifier)
  options['source'] = load(options.pop('split', 'train'))
  seed = options.setdefault('seed', seed)
  options['key'] = sweeps.key(seed, 'train')
  if options.pop('defended', False):
    options['defense'] = defenses.build(specs).gradient
  return options

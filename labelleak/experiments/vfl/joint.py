"""A joint model with its data and its training: what experiments ask of it."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import compilation, data, he, runs, sweep, train, validate, vfl
from labelleak.attacks import arbiter
from labelleak.base import Attack, Batch, InputError, Party
from labelleak.data import batches as data_batches
from labelleak.data.splits import Split
from labelleak.defenses import Strength
from labelleak.experiments.result import Setting
from labelleak.models import weights
from labelleak.spec import Spec


class Training(NamedTuple):
  """How a joint model is trained."""

  steps: int  # of training; 0: none
  steps_per_epoch: int
  batch_size: int  # of a step
  shuffle: bool  # whether every epoch has an order of its own
  workdir: Optional[str]  # where states are kept for good; None: nowhere
  identity: str  # tells apart what made a state

  def check(self, rows: int, sealed: bool) -> None:
    """Refuses batches of one row under a sealed link."""
    size = self.batch_size
    if self.steps and sealed and (size == 1 or rows % size == 1):
      raise InputError(
        f'train.batch_size={size} leaves a sealed batch of 1 of {rows} rows:'
        ' its sum over the batch reveals that row; change it.'
      )


class Draws(NamedTuple):
  """How each trial draws the batch that it attacks."""

  # 'random' draws classes and rows anew for every trial, as the BLI paper does;
  # 'first' takes the first of both, as VFLAIR does
  draw: str
  classes: Optional[int]  # how many of the data set's; None: all
  batch_size: int  # B
  seed: int  # of the draws

  def rows(
    self, source: data.Source, trial: int
  ) -> tuple[data.Source, np.ndarray]:
    """Returns the source of a trial's classes, and the rows of its batch [B].

    Raises:
      InputError: an unknown draw, or more rows than these classes hold.
    """
    validate.one_of('draw', self.draw, ('random', 'first'))
    rng = np.random.default_rng([self.seed, trial])
    classes = np.arange(source.num_classes)
    if self.draw == 'random':
      classes = rng.permutation(classes)
    part = data.of_classes(source, np.sort(classes[: self.classes]))
    size, held = self.batch_size, len(part.y)
    rows = f'the rows of {part.num_classes} classes of {source.name}'
    validate.whole('batch_size', size, 2, held, rows)
    if self.draw == 'random':
      return part, rng.choice(held, size, replace=False)
    return part, np.arange(size)


@dataclasses.dataclass(frozen=True)
class Joint:
  """A joint model, its data and its training.

  Attributes:
    protocol: of its training.
    parties: P; the last one is active.
    links: P.
    split: x [n, ...] -> P x [n, ...].
    source: rows to train on, and to attack.
    tested: rows that accuracy is of; None without a training.
    num_classes: K.
    attacker: a passive party.
    training: how it is trained.
    draws: how the trials of an experiment draw batches.
    weights: file of the bottoms' pretrained weights; None: none.
    max_hours: that encryption may take.
    strengths: of what is done to cut gradients; None: they cannot be told.
    arbiter: the optimizer of an arbiter; None: parties see their gradients.
    loss: name of the active party's.
    setting: identifies the point.
  """

  protocol: vfl.Protocol
  parties: tuple[Party, ...]
  links: tuple[vfl.Link, ...]
  split: Split
  source: data.Source
  tested: Optional[data.Source]
  num_classes: int
  attacker: int
  training: Training
  draws: Draws
  weights: Optional[str]
  max_hours: float
  strengths: Optional[tuple[Strength, ...]]
  arbiter: Optional[Spec]
  loss: str
  setting: Setting

  @property
  def party(self) -> Party:
    """The attacker's own party."""
    return self.parties[self.attacker]

  @property
  def devices(self) -> list[jax.Device]:
    """Those that can share trials."""
    return he.devices(self.links[0].aggregate)

  def part(self, x: chex.Array) -> chex.Array:
    """Returns what the attacker holds of examples x [n, ...]."""
    return self.split(x)[self.attacker]

  def adapt(self, attack: Attack) -> Attack:
    """Returns an attack on what the attacker sees: updates are undone."""
    return arbiter.undo(attack, self.arbiter) if self.arbiter else attack

  def draw(self, index: np.ndarray) -> Batch:
    """Returns the attacked batches of trials [n], leaves [n, B, ...]."""
    batches = []
    for trial in index.tolist():
      source, rows = self.draws.rows(self.source, trial)
      batches.append(data_batches.batch(source, self.split, rows))
    return jax.tree.map(lambda *a: np.stack(a), *batches)

  def draw_labelled(self, per_class: int, trial: int) -> np.ndarray:
    """Returns rows whose labels the attacker knows, so many of each class.

    Raises:
      InputError: a class has no more than that.
    """
    y, num_classes = self.source.y, self.source.num_classes
    fewest = np.bincount(y, minlength=num_classes).min()
    rarest = f'the rarest class of {self.source.name} has {fewest} rows'
    validate.whole('aux.per_class', per_class, 1, fewest - 1, rarest)
    rng = np.random.default_rng([self.draws.seed, trial])
    order = rng.permutation(len(y))
    classes = range(num_classes)
    return np.concatenate([order[y[order] == k][:per_class] for k in classes])

  def epochs(self, numbers: np.ndarray, seed: Optional[int]) -> Batch:
    """Returns the batches of training steps [n], from 1, leaves [n, B, ...]."""
    return data_batches.epochs(
      self.source,
      self.split,
      self.training.batch_size,
      numbers,
      seed=seed if self.training.shuffle else None,
    )

  def init(self, seed: int, batches: Optional[vfl.Batches] = None) -> vfl.State:
    """Returns what the training of a seed starts from.

    Parameters follow from the seed, those of bottoms but for their heads from
    a file, if there is one; what a link keeps has the size of a batch.
    """
    batches = batches or (lambda numbers: self.epochs(numbers, None))
    xs = jax.tree.map(lambda a: a[0], batches(np.arange(1) + 1).xs)
    key = sweep.key(seed, 'training')
    state = compilation.jit_once(self.protocol.init)(key, xs)
    if not self.weights:
      return state
    load = lambda bottom: weights.load(self.weights, bottom, head='fresh')
    return state._replace(variables=tuple(map(load, state.variables)))

  def fit(
    self,
    seed: int,
    *,
    batches: Optional[vfl.Batches] = None,
    name: str = '',
    workdir: Optional[str] = None,
    callback: Optional[train.Callback] = None,
  ) -> vfl.State:
    """Returns the joint model after its training, epoch by epoch.

    With a workdir the state is kept there, by what made it, and a training that
    was killed goes on from it. A workdir of the training's own comes first.

    Args:
      seed: of the initialisation and of the order.
      batches: of the steps, where they are not the epochs of `source`.
      name: tells a training apart from others of the same config.
      workdir: of the point, where the state is kept for as long as that runs.
      callback: (step, metrics) after every chunk; see `train.fit`.
    """
    return vfl.fit(
      self.protocol,
      self.init(seed, batches),
      batches or (lambda numbers: self.epochs(numbers, seed)),
      steps=self.training.steps,
      workdir=self.training.workdir or workdir,
      made_by=f'{self.training.identity} {name} {seed}',
      every=0.0 if self.training.workdir else runs.EVERY,
      callback=callback,
    )

  def fit_all(
    self,
    seeds: Sequence[int],
    stops: Sequence[int],
    *,
    workdir: Optional[str] = None,
  ) -> list[vfl.State]:
    """Returns states [T, ...] of all seeds' trainings, one for each stop.

    As `fit`, vmapped.

    Args:
      seeds: T.
      stops: ascending steps; the states after each of them are returned.
      workdir: of the point, where states are kept for as long as that runs.
    """
    shuffle = self.training.shuffle

    def batches(numbers):
      if not shuffle:  # the same for all
        return self.epochs(numbers, None)
      each = [self.epochs(numbers, seed) for seed in seeds]
      return jax.tree.map(lambda *a: np.stack(a, 1), *each)

    step = vfl.train_step(self.protocol)
    step = jax.vmap(step, (0, 0 if shuffle else None))

    def mean(states, batch):
      states, metrics = step(states, batch)
      return states, dict(loss=metrics['loss'].mean())  # decoding costs time

    starts = [self.init(seed) for seed in seeds]
    states = jax.tree.map(lambda *a: jnp.stack(a), *starts)
    stopped, done = [], 0
    for stop in stops:
      following = lambda numbers, done=done: batches(numbers + done)
      states = train.fit(
        mean,
        states,
        following,
        steps=stop - done,
        workdir=workdir,
        made_by=f'{self.training.identity} {seeds} {done}..{stop}',
        every=runs.EVERY,
      )
      stopped.append(states)
      done = stop
    return stopped

  def accuracy(
    self, state: vfl.State, source: Optional[data.Source] = None
  ) -> float:
    """Returns the share of rows, of the test rows by default, named right."""
    return vfl.accuracy(self.protocol, state, source or self.tested, self.split)

  def score(
    self,
    function: Callable[[vfl.State, tuple[chex.Array, ...]], chex.Array],
    state: vfl.State,
    source: data.Source,
  ) -> np.ndarray:
    """Returns (state, xs of a batch) -> [B, ...] for all rows, [N, ...]."""
    run = functools.partial(jax.jit(function), state)
    return vfl.score_rows(run, source, self.split)

  def traffic(self, batch_size: int) -> tuple[vfl.Traffic, ...]:
    """Returns bytes of a step's messages, for each passive party.

    Raises:
      InputError: a step that cannot be traced.
    """
    hs, variables = self._shapes(batch_size)
    return tuple(
      vfl.traffic(link.aggregate, h, v['params'])
      for link, h, v in zip(self.links[:-1], hs, variables)
    )

  def check_cost(self, *runs: tuple[int, int]) -> None:
    """Refuses encryption beyond `max_hours`, or beyond what a key may open.

    Args:
      *runs: rows of a batch, and how many batches, of all that is encrypted.
    """
    aggregate, passive = self.links[0].aggregate, len(self.parties) - 1
    if aggregate.scheme is None:
      return
    total = passive * sum(steps for _, steps in runs)
    for batch_size, steps in runs:
      if not steps:
        continue
      hs, variables = self._shapes(batch_size)
      outputs = sum(a.size for a in jax.tree.leaves(variables[0]['params']))
      cost = he.estimate(aggregate, num_inputs=hs[0].size, num_outputs=outputs)
      he.check_hours(cost, steps=passive * steps, max_hours=self.max_hours)
      he.check_openings(aggregate, num_outputs=outputs, steps=total)

  def check_training(self) -> None:
    """Refuses a config that trains nothing."""
    validate.whole('train.steps', self.training.steps, 1)

  def _shapes(self, batch_size):
    """Returns shapes of all embeddings and variables, from a step's trace."""
    source = data.of_classes(self.source, range(self.num_classes))
    batch = data_batches.batch(
      source, self.split, np.zeros(batch_size, np.int64)
    )
    state = jax.eval_shape(self.protocol.init, sweep.key(0, 'trace'), batch.xs)
    _, (views, _) = jax.eval_shape(self.protocol.step, state, batch)
    return [view.h for view in views], state.variables

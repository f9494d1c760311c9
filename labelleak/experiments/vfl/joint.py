"""A joint model with its data and its training: what experiments ask of it."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import base, data, he, runs, sweep, train, vfl
from labelleak.base import Batch, InputError, Party
from labelleak.data import batches as data_batches
from labelleak.data.splits import Split
from labelleak.experiments.result import Setting
from labelleak.models import weights


class Training(NamedTuple):
  """How a joint model is trained.

  Attributes:
    steps: of training; 0: none.
    batch_size: of a step.
    shuffle: whether every epoch has an order of its own.
    workdir: where states are kept for good, to go on from; None: nowhere.
    identity: tells apart what made a state.
  """

  steps: int
  batch_size: int
  shuffle: bool
  workdir: Optional[str]
  identity: str

  def steps_per_epoch(self, rows: int) -> int:
    """Returns the steps of an epoch over so many rows."""
    return -(-rows // self.batch_size)

  def check(self, rows: int, sealed: bool) -> None:
    """Refuses batches of one row under a sealed link."""
    size = self.batch_size
    if self.steps and sealed and (size == 1 or rows % size == 1):
      raise InputError(
        f'train.batch_size={size} leaves a sealed batch of 1 of {rows} rows:'
        ' its sum over the batch reveals that row; change it.'
      )


class Draws(NamedTuple):
  """How each trial draws the batch that it attacks.

  Attributes:
    draw: 'random' draws classes and rows anew for every trial, as the BLI paper
      does; 'first' takes the first of both, as VFLAIR does.
    classes: how many of the data set's; None: all.
    batch_size: B.
    seed: of the draws.
  """

  draw: str
  classes: Optional[int]
  batch_size: int
  seed: int

  def rows(
    self, source: data.Source, trial: int
  ) -> tuple[data.Source, np.ndarray]:
    """Returns the source of a trial's classes, and the rows of its batch [B].

    Raises:
      InputError: an unknown draw, or more rows than these classes hold.
    """
    rng = np.random.default_rng([self.seed, trial])
    classes = np.arange(source.num_classes)
    if self.draw == 'random':
      classes = np.sort(rng.permutation(classes)[: self.classes])
    elif self.draw == 'first':
      classes = classes[: self.classes]
    else:
      raise InputError(
        f"draw={self.draw!r} is unknown; use 'random' or 'first'."
      )
    part = data.of_classes(source, classes)
    size, held = self.batch_size, len(part.y)
    if not 2 <= size <= held:
      raise InputError(
        f'batch_size={size} must lie in 2..{held}, the rows of'
        f' {len(classes)} classes of {source.name}; change it.'
      )
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
  setting: Setting

  @property
  def party(self) -> Party:
    """The attacker's own party."""
    return self.parties[self.attacker]

  def part(self, x: chex.Array) -> chex.Array:
    """Returns what the attacker holds of examples x [n, ...]."""
    return self.split(x)[self.attacker]

  def draw(self, index: np.ndarray) -> Batch:
    """Returns the attacked batches of trials [n], leaves [n, B, ...]."""
    batches = []
    for trial in index.tolist():
      source, rows = self.draws.rows(self.source, trial)
      batches.append(data_batches.batch(source, self.split, rows))
    return jax.tree.map(lambda *a: np.stack(a), *batches)

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
    state = base.jit_once(self.protocol.init)(key, xs)
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
    progress: Optional[bool] = None,
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
      progress: whether to show a bar; None shows it on a terminal.
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
      progress=progress,
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
        made_by=f'{self.training.identity} {seeds} {done}',
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

  def check_cost(self, batch_size: int, steps: int) -> None:
    """Refuses what encryption would draw out beyond `max_hours`."""
    aggregate = self.links[0].aggregate
    if aggregate.scheme is None:
      return
    hs, variables = self._shapes(batch_size)
    outputs = sum(a.size for a in jax.tree.leaves(variables[0]['params']))
    cost = he.estimate(aggregate, num_inputs=hs[0].size, num_outputs=outputs)
    he.check_hours(
      cost,
      steps=steps * (len(self.parties) - 1),
      max_hours=self.max_hours,
    )

  def check_training(self) -> None:
    """Refuses a config that trains nothing.

    Raises:
      InputError: names the number of steps.
    """
    if not self.training.steps:
      raise InputError(
        f'train.steps={self.training.steps} trains nothing; raise it.'
      )

  def _shapes(self, batch_size):
    """Returns shapes of all embeddings and variables, from a step's trace.

    Raises:
      InputError: a model that the protocol cannot train.
    """
    source = data.of_classes(self.source, range(self.num_classes))
    batch = data_batches.batch(
      source, self.split, np.zeros(batch_size, np.int64)
    )
    state = jax.eval_shape(self.protocol.init, sweep.key(0, 'trace'), batch.xs)
    _, (views, _) = jax.eval_shape(self.protocol.step, state, batch)
    return [view.h for view in views], state.variables

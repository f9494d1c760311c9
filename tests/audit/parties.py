"""A passive party's logs: digits by halves, trained as the protocol says."""

from collections.abc import Callable, Sequence
import functools
from typing import Optional

import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import data, models, vfl
from labelleak.base import Batch

State = dict[str, np.ndarray]


@functools.cache
def _digits(num_classes):
  source = data.load('digits', split='train')
  x = np.asarray(source.take(np.arange(600)), np.float32).reshape(600, 64)
  return x, np.asarray(source.y[:600], int) % num_classes


def labels(num_classes: int = 10) -> np.ndarray:
  """Returns the labels of all rows that `log` may have."""
  return _digits(num_classes)[1]


def log(
  sizes: Sequence[int],
  *,
  num_classes: int = 10,
  bottom: str = 'linear',
  width: Optional[int] = None,
  top: Optional[str] = None,
  lr: float = 1e-2,
  sealed: bool = False,
  defenses: Sequence[optax.GradientTransformation] = (),
  scale: Callable[[int], float] = lambda size: 1.0,
) -> State:
  """Makes the log of a training on digits, of one step a size.

  Args:
    sizes: rows of each step, taken in their order.
    num_classes: K, digits modulo it.
    bottom: model of both parties.
    width: D; None: K.
    top: model of the active party; None: embeddings are added.
    lr: of Adam.
    sealed: whether parameters and their gradients are logged.
    defenses: on the passive party's cut gradients.
    scale: of a step's size, that gradients are multiplied by.
  """
  x, y = _digits(num_classes)
  make = lambda name, n: vfl.party(
    models.load(name, num_classes=n), optax.adam(lr)
  )
  parties = [make(bottom, width or num_classes) for _ in range(2)]
  protocol = vfl.protocol(
    parties,
    make(top, num_classes) if top else None,
    [vfl.link(*defenses), vfl.link()],
  )
  parts = x[:, :32], x[:, 32:]
  state = protocol.init(
    jax.random.key(0), tuple(jnp.asarray(part[:4]) for part in parts)
  )
  step = jax.jit(protocol.step)
  lines, params, grads, start = [], [], [], 0
  for number, size in enumerate(sizes):
    rows = np.arange(start, start + size) % len(y)
    start += size
    batch = Batch(
      xs=tuple(jnp.asarray(part[rows]) for part in parts),
      y=jnp.eye(num_classes)[y[rows]],
      index=jnp.asarray(rows),
      mask=jnp.ones(size),
    )
    state, (views, _) = step(state, batch)
    view = views[0]
    factor = np.float32(scale(size))
    lines.append(
      dict(
        step=np.full(size, number),
        row=rows,
        cut_grads=factor * np.asarray(view.cut_grads),
        h=np.asarray(view.h),
        x=np.asarray(view.x),
      )
    )
    params.append(_name(view.variables['params'], 1))
    grads.append(_name(view.param_grads, factor))
  arrays = {n: np.concatenate([line[n] for line in lines]) for n in lines[0]}
  if not sealed:
    del arrays['x']
    return arrays
  del arrays['cut_grads']
  for prefix, steps in ('params/', params), ('param_grads/', grads):
    arrays |= {prefix + n: np.stack([s[n] for s in steps]) for n in steps[0]}
  return arrays


def _name(tree, factor) -> State:
  """Names leaves as torch does, kernels transposed."""
  named = {}
  for module, leaves in tree.items():
    for leaf, value in leaves.items():
      value = factor * np.asarray(value)
      name = {'kernel': 'weight'}.get(leaf, leaf)
      named[f'{module}.{name}'] = value.T if leaf == 'kernel' else value
  return named

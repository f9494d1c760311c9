"""One logit of two classes, read as the two that say the same.

A logit z and the logits -z/2, z/2 have equal probabilities, sigmoid(z) and
those of a softmax, and equal gradients: u = (p - y) / B of the one is that of
the second of the two. So what reads K logits reads one logit, too.
"""

import chex
import jax.numpy as jnp

from labelleak import vfl


def split_logit(h: chex.Array) -> chex.Array:
  """Returns two logits [..., 2] of one [..., 1], of equal probabilities."""
  return jnp.concatenate([-h / 2, h / 2], -1)


def split_gradient(cut: chex.Array) -> chex.Array:
  """Returns the gradient of `split_logit`'s two logits, [..., 1] -> [..., 2].

  Under a sigmoid u = (p - y) / B of the one is (S - Y) / B of the other.
  """
  return jnp.concatenate([-cut, cut], -1)


def as_classes(view: vfl.View, known: vfl.Known) -> tuple[vfl.View, vfl.Known]:
  """Returns a view of K logits, where it is of one and of two classes.

  Args:
    view: h [B, D]; others than [B, 1] stay as they are.
    known: with K = 2; the bottom, where it is granted, gets two logits, too.
  """
  if known.num_classes != 2 or view.h is None or view.h.shape[-1] != 1:
    return view, known
  cut = view.cut_grads
  view = view._replace(
    h=split_logit(view.h),
    cut_grads=None if cut is None else split_gradient(cut),
  )
  if known.bottom is None:
    return view, known
  single = known.bottom

  def bottom(variables, x, key):
    return split_logit(single(variables, x, key))

  return view, known.replace(bottom=bottom)

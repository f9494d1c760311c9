"""Links: the way of a cut gradient from the active party to one party."""

from typing import NamedTuple, Optional

import chex
import jax
import optax

from labelleak import he
from labelleak.base import Tampering
from labelleak.defenses import extra_args


class Link(NamedTuple):
  """The way of a cut gradient from the active party to one party."""

  tx: optax.GradientTransformation  # chain of defenses on [B, D]
  aggregate: he.Aggregate
  tampering: Tampering = Tampering()  # of that party
  coordinated: bool = False  # whether an arbiter holds that party's optimizer


class Traffic(NamedTuple):
  """Bytes of a step's messages between the active party and one other."""

  embedding: int  # h, in the clear, to the active party
  gradient: int  # the cut gradient, sealed or not, back
  masked: int  # what the third party decrypts
  opened: int  # what it returns


def link(
  *txs: optax.GradientTransformation,
  aggregate: Optional[he.Aggregate] = None,
  tampering: Optional[Tampering] = None,
  coordinated: bool = False,
) -> Link:
  """A link whose transforms act in order; in plaintext unless told otherwise.

  Several transforms draw with a key each, as in `defenses.chain`; in one that
  is an `optax.chain` they would share the key, and with it their noise.

  Args:
    *txs: defenses, at the active end.
    aggregate: from `he`.
    tampering: of the party at the other end; None: it follows the protocol.
    coordinated: whether an arbiter decrypts that party's gradient and returns
      the update of its optimizer instead, as in FATE's hetero-LR.
  """
  alone = len(txs) == 1  # its key stays as it is
  tx = optax.with_extra_args_support(
    txs[0] if alone else extra_args.chain(*txs)
  )
  tampering = tampering or Tampering()
  if tampering.tamper:
    tamper = optax.with_extra_args_support(tampering.tamper)
    tampering = tampering._replace(tamper=tamper)
  return Link(tx, aggregate or he.plaintext(), tampering, coordinated)


def traffic(
  aggregate: he.Aggregate, h: chex.Array, params: chex.ArrayTree
) -> Traffic:
  """Messages of one passive party in a step, in bytes; see `he.traffic`.

  Args:
    aggregate: of the party's link.
    h: its embedding [B, D], or the shape of it.
    params: of its bottom, or their shapes.
  """
  outputs = sum(leaf.size for leaf in jax.tree.leaves(params))
  sent = he.traffic(aggregate, num_inputs=h.size, num_outputs=outputs)
  return Traffic(
    embedding=h.size * h.dtype.itemsize,
    gradient=sent.sealed,
    masked=sent.masked,
    opened=sent.opened,
  )

"""Defenses: changes to what is sent, to labels, loss or model.

Every constructor returns a `Defense`, and `chain` composes them:

  >>> from labelleak.defenses import clipping, noise
  >>> both = chain(clipping.clip(max_norm=1.0), noise.gaussian(stddev=0.1))
  >>> both.strengths
  (Strength(kind='clip', value=1.0), Strength(kind='gaussian', value=0.1))

`build` reads the same from a config's dicts. A new defense is a new file here,
or anywhere: `mine.py` with a keyword-only `transform` is what a config calls
'mine.transform'. It is annotated to return a `Defense` or an optax transform.
"""

from collections.abc import Mapping, Sequence
import inspect
from typing import Any, Optional

import optax

from labelleak import lazy, registry
from labelleak.base import InputError
from labelleak.defenses import extra_args, label_codes
from labelleak.defenses.defense import Defense, LabelCode, Penalty
from labelleak.defenses.strengths import Strength, view_strengths
from labelleak.spec import Spec

__all__ = (
  'Defense',
  'LabelCode',
  'Penalty',
  'Strength',
  'build',
  'canonical',
  'chain',
  'load',
  'names',
  'split',
  'view_strengths',
)


KINDS = Defense, optax.GradientTransformation

__getattr__, __dir__ = lazy.modules(__name__)


def load(name: str, **hyper: Any) -> Defense:
  """Builds one defense, `load('noise.gaussian', stddev=0.1)`.

  Raises:
    InputError: as `build`.
  """
  return _load(dict(hyper, name=name), hyper.get('num_classes'))


def names() -> list[str]:
  """Lists what `load` builds."""
  return registry.names('defenses')


def build(
  specs: Sequence[Spec],
  num_classes: Optional[int] = None,
  *,
  only: Optional[str] = None,
) -> Defense:
  """Builds the defenses that a config lists, composed.

  >>> defense = build((dict(name='clip', max_norm=0.1),
  ...                  dict(name='gaussian', stddev=0.01)))

  Args:
    specs: dicts with `name`, a constructor of this package or an absolute
      import path such as 'optax.clip_by_global_norm', and its hyperparameters.
    num_classes: K, which constructors that ask for it get.
    only: the one field of `Defense` that they may fill, such as 'gradient'.

  Raises:
    InputError: unknown name, a hyperparameter that is wrong or missing, what is
      no defense or acts elsewhere than on `only`, several top models.
  """
  defenses = [_load(spec, num_classes) for spec in specs]
  for spec, defense in zip(specs, defenses):
    acts = [f for f in _PLACES if getattr(defense, f) is not None]
    if only and acts != [only]:
      places = ' and '.join(_PLACES[f] for f in acts) or 'nothing'
      raise InputError(
        f'{spec["name"]} acts on {places}, and here a defense acts on'
        f' {_PLACES[only]}; drop it.'
      )
  return chain(*defenses)


# Where each field acts.
_PLACES = dict(
  gradient='what is sent',
  labels='labels',
  penalty='the loss',
  top='the joint model',
)


def canonical(specs: Sequence[Spec]) -> tuple[Spec, ...]:
  """Returns specs whose names have the one spelling that rows use.

  >>> canonical([dict(name='noise.gaussian', stddev=0.1)])
  ({'name': 'gaussian', 'stddev': 0.1},)

  Raises:
    InputError: a name that is missing or unknown.
  """
  return tuple(
    dict(spec, name=registry.canonical('defenses', _name(spec)))
    for spec in specs
  )


def split(specs: Sequence[Spec]) -> tuple[list[Spec], list[Spec]]:
  """Splits a client's defenses into those of local steps and of the update.

  >>> split([dict(name='clip', max_norm=1.0, at='step'), dict(name='compress')])
  ([{'name': 'clip', 'max_norm': 1.0}], [{'name': 'compress'}])

  Args:
    specs: as for `build`, with `at='step'` where a defense acts on the gradient
      of every local step.

  Raises:
    InputError: another place than 'step'.
  """
  places = dict(step=[], update=[])
  for spec in specs:
    place = spec.get('at', 'update')
    if not (isinstance(place, str) and place in places):
      raise InputError(
        f"{spec['name']}: at={place!r} must be 'step', or be left out for the"
        ' update.'
      )
    places[place].append({k: v for k, v in spec.items() if k != 'at'})
  return places['step'], places['update']


def chain(*defenses: Defense) -> Defense:
  """Composes defenses in their order; of none, the identity.

  Transforms act one after the other, and so do codes, each with its own key;
  `optax.chain` hands all of them the same key, so that their noises are copies
  of one another. Penalties add up. `gradient` and `labels` are always there.

  Raises:
    InputError: more than one of them is a top model.
  """
  filled = lambda field: [
    getattr(d, field) for d in defenses if getattr(d, field) is not None
  ]
  codes, penalties, tops = map(filled, ('labels', 'penalty', 'top'))
  if len(tops) > 1:
    raise InputError(
      f'{len(tops)} defenses are a top model, and there is one; drop all but'
      ' one.'
    )
  strengths = [d.strengths for d in defenses if d.gradient is not None]
  return Defense(
    gradient=extra_args.chain(*filled('gradient')),
    labels=label_codes.chain(*codes),
    penalty=_sum_penalties(penalties) if penalties else None,
    top=tops[0] if tops else None,
    strengths=None if None in strengths else sum(strengths, ()),
  )


def _name(spec):
  """Returns the name that a spec must have."""
  if isinstance(spec, Mapping) and 'name' in spec:
    return spec['name']
  raise InputError(
    f'defense {spec!r} has no name; write dict(name=..., ...), one of:'
    f' {", ".join(registry.names("defenses"))}.'
  )


def _load(spec, num_classes):
  """Builds the defense of one dict; a bare transform is wrapped."""
  constructor = registry.find('defenses', _name(spec))
  if 'num_classes' in inspect.signature(constructor).parameters:
    if num_classes is None:
      raise InputError(
        f'{spec["name"]} needs the number of classes, and is of vertical FL;'
        ' drop it here, or pass num_classes.'
      )
    spec = dict(spec, num_classes=num_classes)
  defense = registry.load('defenses', **spec)
  if isinstance(defense, optax.GradientTransformation):
    return Defense(gradient=defense)
  if not isinstance(defense, Defense):
    raise InputError(
      f'{spec["name"]} makes a {type(defense).__name__}, no Defense and no'
      ' optax transform; return one.'
    )
  return defense


def _sum_penalties(penalties):
  """Adds several terms of the loss."""
  return lambda hs, y, mask: sum(p(hs, y, mask) for p in penalties)

"""The joint model of a vertical config; the one reader of its fields."""

from collections.abc import Sequence
import functools
from typing import Optional

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from labelleak import data, defenses, registry, spec, validate, vfl
from labelleak.base import InputError, MakeOptimizer, Party, Tampering
from labelleak.defenses import accounting
from labelleak.experiments import misfits, sources
from labelleak.experiments.result import Setting
from labelleak.experiments.vfl import optimizers
from labelleak.experiments.vfl.joint import Draws, Joint, Training
from labelleak.spec import Spec


def build(
  config: ConfigDict,
  *,
  optimizer: Optional[MakeOptimizer] = None,
  tampering: Optional[Tampering] = None,
  attackers: Sequence[int] = (),
) -> Joint:
  """Returns the joint model of a config, its data and its training.

  Bottoms are of one kind; passive links are defended and aggregated. The active
  party's own link is clear and carries no defense, unless `defend_active` says
  so, as in the code of Fu et al.

  Args:
    config: of the point.
    optimizer: what the `attackers` train with in the place of their own.
    tampering: what the `attackers` do to messages.
    attackers: parties that do not follow the protocol.

  Raises:
    InputError: a split, model, defense, aggregator or optimizer that does not
      exist or does not fit; an attacker who is no passive party; data that are
      not there.
  """
  validate.positive('he.max_hours', config.he.max_hours)
  load = functools.partial(sources.load, config.dataset, config.data_dir)
  source = load()
  most = source.num_classes
  num_classes = most if config.classes is None else config.classes
  validate.whole('classes', num_classes, 2, most, f'those of {source.name}')
  tested = None
  # Untrained models draw classes anew for every trial.
  if config.train.steps or config.train.epochs:
    source, tested = (
      data.of_classes(each, range(num_classes))
      for each in (source, load(config.train.tested))
    )
  training = _training(config.train, config.to_json(), len(source.y))
  split = registry.build('data', config.split.to_dict(), shape=source.shape)
  num = len(split(np.zeros((1, *source.shape), np.float32)))
  for attacker in (config.attacker, *attackers):
    remedy = 'it is a passive party, and the last one holds the labels'
    validate.whole('attacker', attacker, 0, num - 2, remedy)
  aggregate = registry.build('he', config.aggregate.to_dict())
  training.check(len(source.y), aggregate.sealed)
  specs = defenses.canonical(config.defense)
  defense = defenses.build(specs, num_classes)
  per_epoch = training.steps_per_epoch
  make = functools.partial(optimizers.build, steps_per_epoch=per_epoch)
  named_loss, loss = _loss(
    config.get('loss'), config.get('class_weights'), num_classes
  )
  logits = loss.width(num_classes)
  width = config.cut_width or logits
  bottom = registry.build('models', config.model.to_dict(), num_classes=width)
  party = functools.partial(_party, config.model.to_dict(), bottom)
  honest = party(make(config.optimizer))
  other = party(make(config.optimizer, malicious=optimizer))
  parties = tuple(other if p in attackers else honest for p in range(num))
  arbiter = config.get('arbiter', False)
  _check_arbiter(arbiter, aggregate, optimizer or attackers)
  passive = functools.partial(
    vfl.link, defense.gradient, aggregate=aggregate, coordinated=arbiter
  )
  active = vfl.link(*([defense.gradient] if config.defend_active else []))
  links = (
    *(
      passive(tampering=tampering if p in attackers else None)
      for p in range(num - 1)
    ),
    active,
  )
  top = _top(config.top, defense.top, logits)
  protocol = vfl.protocol(
    parties,
    top
    and _party(
      spec.plain(config.top) or dict(name='of a defense'),
      top,
      make(config.top_optimizer or config.optimizer),
    ),
    links,
    code=defense.labels,
    loss=loss,
    penalty=defense.penalty,
    steps_per_epoch=per_epoch,
  )
  setting = Setting(
    data=source.name,
    model=spec.plain(config.model),
    num_classes=num_classes,
    batch_size=config.batch_size,
    trained=training.steps > 0,
    defense=spec.plain(specs),
    stands_for={k: v for k, v in config.stands_for.items() if v},
    extra=dict(
      top=spec.plain(config.top) if config.top else 'sum',
      split=spec.plain(config.split),
      attacker=config.attacker,
      draw=config.draw,
      step=training.steps,
      aggregate=spec.plain(config.aggregate),
      **named_loss,
      **({'arbiter': spec.plain(config.optimizer)} if arbiter else {}),
      **accounting.facts(defense.strengths, -(-training.steps // per_epoch)),
    ),
  )
  return Joint(
    protocol=protocol,
    parties=parties,
    links=links,
    split=split,
    source=source,
    tested=tested,
    num_classes=num_classes,
    attacker=config.attacker,
    training=training,
    draws=Draws(config.draw, config.classes, config.batch_size, config.seed),
    weights=config.get('weights'),
    max_hours=config.he.max_hours,
    strengths=defense.strengths,
    arbiter=spec.plain(config.optimizer) if arbiter else None,
    loss=named_loss.get('loss', {}).get('name', 'cross_entropy'),
    setting=setting,
  )


def _training(options: ConfigDict, identity: str, rows: int) -> Training:
  """Returns a training, its epochs as steps over `rows` rows."""
  if options.steps and options.epochs:
    raise InputError(
      f'train.steps={options.steps} and train.epochs={options.epochs} both say'
      ' how long to train; set one of them to 0.'
    )
  validate.whole('train.batch_size', options.batch_size, 1)
  per_epoch = -(-rows // options.batch_size)
  return Training(
    steps=options.steps or options.epochs * per_epoch,
    steps_per_epoch=per_epoch,
    batch_size=options.batch_size,
    shuffle=options.shuffle,
    workdir=options.workdir,
    identity=identity,
  )


def _party(model, module, tx) -> Party:
  """Returns a party whose model, where it does not run, is named."""
  party = vfl.party(module, tx)

  def init(key, x):
    with misfits.refuse(model, jnp.shape(x)[1:]):
      variables = party.init(key, x)
    return jax.tree.map(_widen, variables)

  return party._replace(init=init)


def _widen(leaf):
  """Returns a float32 in float64, where that is enabled."""
  return leaf.astype(float) if leaf.dtype == jnp.float32 else leaf


def _check_arbiter(arbiter, aggregate, deviates):
  """Refuses an arbiter that would have nothing to decrypt, or no say."""
  if arbiter and not aggregate.sealed:
    raise InputError(
      'arbiter=True decrypts what parties are sent, and this aggregate seals'
      " nothing; use aggregate=dict(name='ideal')."
    )
  if arbiter and deviates:
    raise InputError(
      'arbiter=True holds the optimizers of passive parties, and here one has'
      ' its own; set arbiter=False.'
    )


def _top(top, defense, num_logits) -> Optional[nn.Module]:
  """Returns the top: the config's, a defense's, or none that is trained."""
  if not top:
    return defense
  if defense:
    raise InputError(
      f'config.top={spec.describe(top)} and a defense that is a top: one model'
      ' cannot have two; drop one.'
    )
  return registry.build('models', dict(top), num_classes=num_logits)


def _loss(
  options: Optional[Spec], weights: Optional[Sequence[float]], num_classes: int
) -> tuple[dict[str, Spec], vfl.Loss]:
  """Returns {'loss': its spec}, {} of the default, and the loss itself."""
  options = dict(options or dict(name='cross_entropy'))
  is_default = options == dict(name='cross_entropy')
  weights = tuple(weights or options.get('class_weights', ()))
  if weights and len(weights) != num_classes:
    raise InputError(
      f'class_weights={weights} are not one for each of {num_classes} classes;'
      ' change them.'
    )
  if weights:
    options['class_weights'] = weights
  named = {'loss': spec.plain(options)}
  return {} if is_default else named, registry.build('vfl', options)

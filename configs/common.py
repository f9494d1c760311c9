"""What configs share: their arguments, and the fields of an experiment.

A config's `HEAD` says what each of its args runs: the published `table` that it
repeats, the `minutes` that it took on two cores (where that was measured), and
the data set that it `needs`. `python launch.py --list` prints them.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import datasets
from labelleak.base import InputError

# The server runs the protocol and holds the model.
SERVER = ('lr', 'steps', 'clients', 'defense', 'model')
AUX = (*SERVER, 'labelled')

UNTRAINED = tuple(
  dict(name=f'counts.{name}') for name in ('llg', 'ebi', 'llbg', 'calibrated')
)
TRAINED = (
  *UNTRAINED[:2],
  dict(name='counts.llbg', confidence='aux', known=AUX),
  dict(name='counts.llbg', confidence=0.5),
  dict(name='counts.llbg', confidence=0.7),
  dict(name='counts.llbg', confidence=0.9),
  dict(name='counts.calibrated', known=AUX),
)


def parse_arg(arg, **spec):
  """Parses the text after `configs/NAME.py:`, such as 'table=3,runlocal'.

  >>> parse_arg('table=3,runlocal', table=(1, 3), paper=False)
  {'table': 3, 'paper': False, 'runlocal': True}

  Args:
    arg: comma-separated `name` (means True) or `name=value`; or None.
    **spec: name = default, or the values that it may have, the default first; a
      value is read as the default's type. `runlocal` is always among them.

  Raises:
    InputError: an unknown name, or a value of another type or of none of those.
  """
  spec['runlocal'] = False
  known = {k: v if isinstance(v, tuple) else (v,) for k, v in spec.items()}
  values = {name: of[0] for name, of in known.items()}
  for part in filter(None, (arg or '').split(',')):
    name, equals, text = part.partition('=')
    check_choice('config argument', name, tuple(spec))
    default = known[name][0]
    kind = type(default)
    if (kind is bool) == bool(equals):
      form = name if kind is bool else f'{name}={default}'
      raise InputError(f'config argument {part!r} must look like {form!r}.')
    try:
      values[name] = kind(text) if equals else True
    except ValueError:
      raise InputError(
        f'config argument {part!r} needs a value of type {kind.__name__}.'
      ) from None
    if isinstance(spec[name], tuple):
      check_choice(name, values[name], spec[name])
  return values


def hfl(name):
  """Fields of every horizontal experiment, at the published protocol's values.

  FedAVG with S = 10 local steps of SGD at 1e-3 and the unbalanced batches of
  the LLBG paper (section 6.1), no defense, one client.
  """
  return ConfigDict(
    dict(
      name=name,
      experiment='hfl.label_counts',
      dataset=dict(name='digits'),
      data_dir=placeholder(str),  # where prepared data sets live
      model=dict(name='mlp.mlp'),
      weights=placeholder(str),  # a PyTorch state_dict: .npz, .safetensors
      train=placeholder(object),  # options of train.classifier, run before
      attacks=UNTRAINED,
      known=SERVER,
      # What was published, where the data or the model only stand for it.
      stands_for=dict(data=placeholder(str), model=placeholder(str)),
      aux=dict(per_class=10, split=placeholder(str), overlap=False),
      # On the update, or with `at='step'` on the gradient of a local step.
      defense=(),
      aggregate=dict(name='plaintext'),
      he=dict(max_hours=1.0),
      batch_size=64,
      clients=1,
      local_steps=10,
      lr=1e-3,
      # Fields of `hfl.Client` in the place of both, which are then None.
      client=placeholder(object),
      queries=1,
      rounds=1,  # observed, of the same clients
      shifting=False,  # whether each round is of other examples of theirs
      partition='unbalanced',
      per_class_cap=placeholder(int),
      trials=100,
      seed=0,
      # Trials at once; None: see `sweep.run_trials`.
      per_device=placeholder(int),
      sweep=(),
    )
  )


def vfl(name):
  """Fields of every vertical experiment: two parties, sealed and untrained.

  The setting of the BLI paper: MLP2 bottoms on the halves of an image, logits
  added, a passive party that sees its batch-averaged gradients alone.
  """
  return ConfigDict(
    dict(
      name=name,
      experiment='vfl.batch_inference',
      dataset=dict(name='digits', split='train', normalise=False),
      data_dir=placeholder(str),  # where prepared data sets live
      classes=placeholder(int),  # fewer than the data set has
      split=dict(name='splits.rows'),
      model=dict(name='mlp.mlp2'),  # of every bottom
      loss=dict(name='cross_entropy'),  # or sigmoid, taylor
      cut_width=placeholder(int),  # D; None: that of the joint logits
      top=placeholder(object),  # a model on the embeddings; None adds them
      top_optimizer=placeholder(object),  # None: that of the parties
      attacker=0,
      attacks=(dict(name='linear.full'), dict(name='inversion.batch')),
      known=('bottom',),
      stands_for=dict(data=placeholder(str), model=placeholder(str)),
      # On cut gradients of the passive parties, labels, loss or the top.
      defense=(),
      defend_active=False,  # on the active party's own cut gradient, too
      # Rows of the attacked batch that `known` may grant as `labelled`.
      aux=dict(per_class=1),
      aggregate=dict(name='ideal'),  # of the passive parties' links
      # Whether an arbiter holds passive parties' optimizers; float64 then.
      arbiter=False,
      he=dict(max_hours=1.0),
      batch_size=128,
      draw='random',  # or 'first': rows and classes of a trial
      observed=dict(steps=1, epochs=1),  # of a training
      optimizer=dict(name='adam', lr=1e-3),
      train=dict(
        epochs=0,  # before the attack, or
        steps=0,
        batch_size=128,
        shuffle=True,
        tested='test',  # split that accuracy is of
        workdir=placeholder(str),  # keeps checkpoints, to resume
      ),
      trials=5,
      seed=0,
      # Trials at once; None: see `sweep.run_trials`.
      per_device=placeholder(int),
      sweep=(),
    )
  )


def backdoor(name):
  """Fields of experiments that replace labels: the paper's backdoor task.

  The attacker holds the lower half of an image, its trigger in a corner there,
  and ten rows of the target class, which is another one in every trial.
  """
  config = vfl(name)
  config.experiment = 'vfl.backdoor'
  config.attacks = (dict(name='backdoor.backdoor'),)
  config.split = dict(name='splits.rows', order=(1, 0))
  config.trigger = dict(
    name='triggers.pixels', at=((7, 7), (6, 6), (5, 7), (7, 5))
  )
  config.poison = dict(
    count=placeholder(int),  # rows that bear the trigger; None: all that can
    targets=10,  # rows of the target class that the attacker knows
    target=placeholder(int),  # class; None: another one in every trial
    form='paired',  # of a batch, see labelleak/data/poison.py
    attackers=(0,),  # parties that collude
    inference=placeholder(object),  # an attack that finds labels beforehand
  )
  config.poison.count = 27
  train(config, batch_size=128, epochs=30)
  config.optimizer = dict(name='adam', lr=0.01, decay='epoch')
  config.trials = 10
  return config


def completion(name):
  """Fields of model completion: a trained top, links in the clear.

  The setting of Fu et al.: image halves left and right, SGD whose rate drops
  after epochs 50 and 85, two parties, 4 labelled rows of each class.
  """
  config = vfl(name)
  config.experiment = 'vfl.model_completion'
  config.aggregate = dict(name='plaintext')
  config.split = dict(name='splits.columns')
  config.top = dict(name='mlp.bn_mlp')
  config.optimizer = dict(
    name='sgd', lr=0.1, momentum=0.9, weight_decay=5e-4, decay=(50, 85)
  )
  config.attacks = completions('completion')
  config.known = ('party', 'pool', 'labelled')
  config.aux.per_class = 4
  config.depth = placeholder(int)  # layers of a bottom, where they are varied
  config.class_weights = ()  # of the loss, one for each class
  config.weights = placeholder(str)  # of the bottoms but for their heads
  # Rows of each split that choose the best epoch; None: all.
  config.scored_rows = placeholder(int)
  return config


def check_choice(name, value, known):
  if value not in known:
    raise InputError(f'{name}={value!r} is none of this config: {known}.')


def completions(package, **options):
  """Returns the two attacks of a package and the baseline beside them."""
  return tuple(
    dict(name=f'{package}.{name}', **options)
    for name in ('passive', 'active', 'semi_supervised')
  )


def train(config, batch_size, *, epochs=0, steps=0, **options):
  """Sets the training of a vertical config, whose batches are attacked."""
  config.batch_size = batch_size
  options.update(batch_size=batch_size, epochs=epochs, steps=steps)
  config.train.update(options)


def shrink(config, *, trials=2, files=False, training=None, **fields):
  """Makes a config run in seconds: digits, few trials, quick inversions.

  Args:
    config: changed in place.
    trials: so few.
    files: whether the data stay the config's own.
    training: arguments of `train`, so few steps; None leaves it.
    **fields: what else changes, each replaced.

  Returns:
    the config.
  """
  config.trials = trials
  if not files:
    datasets.use(config, 'digits')
  if training:
    train(config, **training)
  for field, value in fields.items():
    config[field] = value
  config.attacks = tuple(
    dict(attack, steps=50) if attack['name'] == 'inversion.batch' else attack
    for attack in config.attacks
  )
  return config


def strengths(name, *, before=(), after=(), **options):
  """Returns a point of a defense for each of its strengths.

  >>> strengths('ppdl', theta=(0.5, 0.1), early_exit=True)[1]
  ({'name': 'ppdl', 'theta': 0.1, 'early_exit': True},)

  Args:
    name: of the defense.
    before: specs that come before it.
    after: specs that come after it.
    **options: one a tuple, of strengths; the others as they are.
  """
  (varied,) = (k for k, value in options.items() if isinstance(value, tuple))
  return tuple(
    (*before, dict(name=name, **options | {varied: value}), *after)
    for value in options[varied]
  )

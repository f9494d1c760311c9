"""What defenses hide and cost in horizontal FL: Tables 11 to 14 of LLBG.

Without `paper` the attacked images are those of configs/llbg_cifar.py, and what
a defense costs is asked of an MLP on scikit-learn's digits, trained by the
recipe that the paper's reference uses on CIFAR-100 but for its schedule and
augmentation. `adaptive` averages answers to the same request against noise, and
calibrates with and without knowledge of the defense. `secure` sums the updates
of C clients, and gives one client as many examples. `granted` has `calibrated`
know more and more: the defense alone, the model, and 100 unlabelled images.
"""

from configs import common, llbg_cifar

_SAMPLE = 'imagenet_sample'
HEAD = (
  dict(table='LLBG Table 11, clipping', needs=_SAMPLE),
  dict(arg='table=12', table='LLBG Table 12, noise', needs=_SAMPLE),
  dict(arg='table=13', table='LLBG Table 13, compression', needs=_SAMPLE),
  dict(arg='table=14', table='LLBG Table 14, no head bias', needs=_SAMPLE),
  dict(arg='adaptive', table='ours', needs=_SAMPLE),
  dict(arg='secure', table='ours', needs=_SAMPLE),
  dict(arg='granted', table='LLBG Table 11, first row', needs=_SAMPLE),
  dict(arg='paper', table='LLBG Table 11', needs='cifar100'),
)
_SGD = dict(optimizer='sgd', lr=0.1, momentum=0.9, weight_decay=5e-4)
_DIGITS = dict(name='digits')
_SMALL = dict(name='mlp.mlp', width=256)
_BRIEF = dict(_SGD, steps=500, batch_size=64)
_EPOCHS_200 = dict(_SGD, steps=78_200, batch_size=128)


def _blind(to):
  """`calibrated` by a server that does not know one thing."""
  known = tuple(field for field in common.SERVER if field != to)
  return dict(name='counts.calibrated', known=known)


def _clip(max_norm):
  return dict(name='clip', max_norm=max_norm, at='step')


def _noise(stddev):
  return dict(name='gaussian', stddev=stddev, at='step')


_DEFENSES = {
  11: (
    *((_clip(rho), _noise(0.01)) for rho in (0.1, 0.5, 1.0, 1.5)),
    (_noise(0.01),),
  ),
  12: (
    (_clip(1.0),),
    *((_clip(1.0), _noise(sigma)) for sigma in (0.01, 0.1, 0.3, 0.5)),
  ),
  13: ((), *common.strengths('compress', drop=(0.1, 0.4, 0.8, 0.9, 0.99))),
}
_STRONGEST = (_clip(0.1), _noise(0.01))
_ADAPTIVE = (
  ('defense', ((_clip(1.0), _noise(0.1)), _STRONGEST)),
  ('queries', (1, 4, 16)),
)
_SECURE = (
  *(dict(clients=num, batch_size=128) for num in (1, 2, 4, 8)),
  *(dict(clients=1, batch_size=size) for size in (256, 512, 1024)),
)
_GRANTED = (
  *common.UNTRAINED[:3],
  _blind('model'),
  dict(name='counts.calibrated', known=common.SERVER),
  dict(name='counts.calibrated', known=(*common.SERVER, 'unlabelled')),
)


def get_config(arg=None):
  arg = common.parse_arg(
    arg,
    table=(*_DEFENSES, 14),
    adaptive=False,
    secure=False,
    granted=False,
    paper=False,
  )
  config = llbg_cifar.get_config('paper' if arg['paper'] else None)
  config.name = 'llbg_defenses'
  if arg['adaptive']:
    config.model = dict(name='mlp.mlp')
    config.attacks = (*common.UNTRAINED, _blind('defense'))
    config.sweep = _ADAPTIVE
  elif arg['secure']:
    config.model = dict(name='mlp.mlp')
    config.aggregate = dict(name='ideal')
    config.sweep = (_SECURE,)
  elif arg['granted']:
    config.trials = 20
    config.aux.per_class = 1
    config.defense = _STRONGEST
    config.attacks = _GRANTED
    config.sweep = (('partition', ('unbalanced', 'iid')),)
  elif arg['table'] == 14:
    config.sweep = (_bias(arg['paper'], config.dataset.to_dict()),)
  else:
    config.sweep = (('defense', _DEFENSES[arg['table']]),)
    small = dict(_BRIEF, dataset=_DIGITS, model=_SMALL, seeds=2)
    config.main_task = _EPOCHS_200 if arg['paper'] else small
  if arg['runlocal']:
    small = dict(
      _BRIEF, dataset=_DIGITS, model=dict(_SMALL, width=16), steps=20
    )
    common.shrink(
      config,
      files=True,
      batch_size=64,
      model=dict(name='mlp.mlp', width=64),
      attacks=common.UNTRAINED[:3],
      defense=_STRONGEST,
      queries=2,
      sweep=(('clients', (1, 2)),),
      main_task=small,
    )
  return config


def _bias(paper, images):
  """Table 14: with and without a bias of the head, untrained and trained."""
  bare = dict(head_bias=False)
  vgg = dict(name='vgg.vgg11')
  untrained = dict(
    train=None,
    known=common.SERVER,
    dataset=images,
    stands_for=dict(data='cifar100', model=None),
  )
  trained = dict(
    untrained,
    train=_EPOCHS_200 if paper else _BRIEF,
    known=common.AUX,
  )
  small = vgg
  if not paper:
    itself = dict(data=None, model=None)
    trained, small = dict(trained, dataset=_DIGITS, stands_for=itself), _SMALL
  # What reads the kernel alone; the others say that they need a bias.
  names = 'counts.llg', 'counts.llg_star', 'counts.idlg'
  kernel = tuple(dict(name=name) for name in names)
  aux = dict(name='counts.llbg', confidence='aux')
  return (
    dict(untrained, model=vgg, attacks=common.UNTRAINED),
    dict(untrained, model=vgg | bare, attacks=kernel),
    dict(
      trained,
      model=small,
      attacks=tuple(
        aux if attack['name'] == 'counts.llbg' else attack
        for attack in common.UNTRAINED
      ),
    ),
    dict(
      trained,
      model=small | bare,
      attacks=(dict(name='counts.llg'), dict(name='counts.llg_plus')),
    ),
  )

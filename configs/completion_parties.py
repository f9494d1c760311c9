"""Model completion against the number of parties: Figure 3 of Fu et al.

The attacker holds one part of as many as there are parties, and in the last
point two parts more, which their parties keep (`shared`). Columns of an image;
of histopathology a patch each, so that more parties leave fewer examples.
"""

from configs import common, completion

HEAD = (
  dict(table='Fu Figure 3, on digits', minutes=3),
  dict(arg='data=mnist', table='Fu Figure 3, on MNIST', needs='mnist'),
  dict(arg='data=histopathology', table='Fu Figure 3', needs=completion.BHI),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, data=('digits', 'mnist', 'histopathology'))
  data = arg['data']
  config = completion.derive('completion_parties', arg)
  if data == 'histopathology':
    config.dataset.patches = 2
    points = _patches((2, 3) if arg['runlocal'] else (2, 4, 6, 8, 10))
    config.sweep = (tuple(points),)
    return config
  most = 8 if data == 'digits' else 14
  counts = (2, most) if arg['runlocal'] else (2, 4, most)
  columns = dict(name='splits.columns')
  config.sweep = (
    (
      'split',
      (
        *(dict(columns, parties=num) for num in counts),
        dict(columns, parties=most, shared=2 * (most // 4)),
      ),
    ),
  )
  return config


def _patches(counts):
  """Points with a patch a party, the last also with two shared ones."""
  split = dict(name='splits.patches')
  for num in counts:
    yield {'dataset.patches': num, 'split': split}
  yield {'dataset.patches': counts[-1], 'split': dict(split, shared=2)}

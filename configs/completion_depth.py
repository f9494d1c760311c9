"""Model completion against the depth of the bottom: Figure 2 of the supplement.

  python launch.py --config=configs/completion_depth.py        # real digits
  python launch.py --config=configs/completion_depth.py:data=mnist
  python launch.py --config=configs/completion_depth.py:data=criteo
  python launch.py --config=configs/completion_depth.py:data=cifar10   # a GPU
  python launch.py --config=configs/completion_depth.py:data=cifar10,small
  python launch.py --config=configs/completion_depth.py:runlocal  # seconds

The whole network keeps its depth, and layers move between the bottoms and the
top. Digits have 6 layers (2 in the bottom otherwise), as Criteo has (3); the
ResNet20 and its top on CIFAR-10 and histopathology 24 (23 as the paper counts):
1 is the first convolution, 7 and 13 end the first two stages, 20 is the
ResNet20 and 22 two layers of its top, too.

Left open by the paper and chosen here: a top that begins within the network
sees the parties' outputs side by side (maps along the width of the image, see
`labelleak/models/depth.py`), its layers there are as wide as those of all
bottoms together, and a layer that moves into a bottom is as wide as the
embedding.

Digits, three seeds: no climb with depth. Passive / active on training rows 75.6
/ 76.6 % at 1 and 73.3 / 68.0 at 5; 11 minutes on one core that others shared.

Published, active attack, training / test rows: CIFAR-10 .1668 / .1512 at 1 and
.9356 / .6732 at 22, the model .8704 and .8137; Criteo .6324 / .6378 at 1 and
.6879 / .6897 at 5.
"""

from configs import common, completion

_HEIGHT = dict(cifar10=32, histopathology=50)
_DATA = ('digits', 'mnist', 'criteo', *_HEIGHT)


def get_config(arg=None):
  arg = common.parse_arg(arg, data='digits', small=False, runlocal=False)
  data = arg['data']
  common.check_choice('data', data, _DATA)
  flags = ''.join(f',{k}' for k in ('small', 'runlocal') if arg[k])
  config = completion.get_config(f'data={data}{flags}')
  config.name = 'completion_depth'
  config.attacks = config.attacks[: 1 if arg['runlocal'] else 2]
  model, top = config.model.to_dict(), dict(config.top)
  whole = model, config.cut_width or 10, top
  if data in _HEIGHT:
    height = config.dataset.get('size', _HEIGHT[data])
    points = tuple(_resnet(*whole, height))
  else:
    points = tuple((_fcnn if data == 'criteo' else _mlp)(*whole))
  fields = 'depth', 'model', 'cut_width', 'top'
  config.sweep = ((fields, points[::4] if arg['runlocal'] else points),)
  return config


def _resnet(model, width, top, height):
  """(depth, bottom, width of the cut, top) of each point; so below."""
  widths = top.get('widths', (20, 10, 10))
  for depth, stages in ((1, 0), (7, 1), (13, 2)):
    bottom = dict(name='depth.bottom', model=model, stages=stages)
    remainder = dict(bottom, name='depth.remainder', height=height)
    joint_top = dict(
      name='depth.chain', width=2 * width, first=remainder, then=top
    )
    yield depth, bottom, width, joint_top
  yield 20, model, width, top
  yield 22, _longer(model, width, 2), width, dict(top, widths=widths[2:])


def _mlp(model, width, top):
  """One hidden layer and the embedding, then a top of four layers."""
  widths = (20, 10, 10)
  yield (
    1,
    dict(name='mlp.linear'),
    model['width'],
    dict(top, widths=(20, *widths)),
  )
  yield 2, model, width, top
  for more in (1, 2, 3):
    bottom = _longer(model, width, more)
    yield 2 + more, bottom, width, dict(top, widths=widths[more:])


def _fcnn(model, width, top):
  """Layers of 64, 16 and the embedding's width, then a top of three."""
  own, widths = (64, 16, width), top['widths']
  for depth in (1, 2):
    joined = (*(2 * w for w in own[depth:]), *widths)
    bottom = dict(model, widths=own[: depth - 1])
    yield depth, bottom, own[depth - 1], dict(top, widths=joined)
  yield 3, model, width, top
  for more in (1, 2):
    bottom = dict(model, widths=(*own[:2], *[width] * more))
    yield 3 + more, bottom, width, dict(top, widths=widths[more:])


def _longer(model, width, more):
  """A bottom and `more` layers of the top on it."""
  then = dict(name='mlp.bn_mlp', widths=(width,) * (more - 1))
  return dict(name='depth.chain', width=width, first=model, then=then)

"""Model completion against the depth of the bottom: Figure 2 of the supplement.

The whole network keeps its depth (6 layers; ResNet20 and its top 24), and
layers move between the bottoms and the top. Left open by the paper and chosen
here: a top that begins within the network sees the parties' outputs side by
side (see `labelleak/models/depth.py`), its layers there are as wide as those of
all bottoms together, and a layer that moves into a bottom is as wide as the
embedding.
"""

from configs import common, completion, datasets

_FIGURE2 = 'Fu suppl. Figure 2'
HEAD = (
  dict(table=f'{_FIGURE2}, on digits', minutes=11),
  dict(arg='data=mnist', table=f'{_FIGURE2}, on MNIST', needs='mnist'),
  dict(arg='data=criteo', table=_FIGURE2, needs='criteo'),
  dict(arg='data=cifar10', table=f'{_FIGURE2}, a GPU', needs='cifar10'),
  dict(arg='data=cifar10,small', table=_FIGURE2, needs='cifar10'),
  dict(arg='data=histopathology', table=_FIGURE2, needs=completion.BHI),
)
_RESNETS = ('cifar10', 'histopathology')
_DATA = ('digits', 'mnist', 'criteo', *_RESNETS)


def get_config(arg=None):
  arg = common.parse_arg(arg, data=_DATA, small=False)
  data = arg['data']
  config = completion.derive('completion_depth', arg)
  whole = dict(
    model=config.model.to_dict(),
    cut_width=config.cut_width or 10,
    top=dict(config.top),
  )
  if data in _RESNETS:
    height = config.dataset.get('size', datasets.SIDES[data])
    points = tuple(_resnet(**whole, height=height))
  else:
    points = tuple((_fcnn if data == 'criteo' else _mlp)(**whole))
  config.sweep = (points[::4] if arg['runlocal'] else points,)
  return config


def _point(depth, model, cut_width, top):
  return dict(depth=depth, model=model, cut_width=cut_width, top=top)


def _resnet(model, cut_width, top, height):
  """Points that cut after a stage, at the published cut and within the top."""
  widths = top.get('widths', (20, 10, 10))
  for depth, stages in ((1, 0), (7, 1), (13, 2)):
    bottom = dict(name='depth.bottom', model=model, stages=stages)
    remainder = dict(bottom, name='depth.remainder', height=height)
    joint_top = dict(
      name='depth.chain', width=2 * cut_width, first=remainder, then=top
    )
    yield _point(depth, bottom, cut_width, joint_top)
  yield _point(20, model, cut_width, top)
  bottom = _longer(model, cut_width, 2)
  yield _point(22, bottom, cut_width, dict(top, widths=widths[2:]))


def _mlp(model, cut_width, top):
  """One hidden layer and the embedding, then a top of four layers."""
  widths = (20, 10, 10)
  linear, whole = dict(name='mlp.linear'), dict(top, widths=(20, *widths))
  yield _point(1, linear, model['width'], whole)
  yield _point(2, model, cut_width, top)
  for more in (1, 2, 3):
    bottom = _longer(model, cut_width, more)
    yield _point(2 + more, bottom, cut_width, dict(top, widths=widths[more:]))


def _fcnn(model, cut_width, top):
  """Layers of 64, 16 and the embedding's width, then a top of three."""
  own, widths = (64, 16, cut_width), top['widths']
  for depth in (1, 2):
    joined = (*(2 * w for w in own[depth:]), *widths)
    bottom = dict(model, widths=own[: depth - 1])
    yield _point(depth, bottom, own[depth - 1], dict(top, widths=joined))
  yield _point(3, model, cut_width, top)
  for more in (1, 2):
    bottom = dict(model, widths=(*own[:2], *[cut_width] * more))
    yield _point(3 + more, bottom, cut_width, dict(top, widths=widths[more:]))


def _longer(model, width, more):
  """A bottom and `more` layers of the top on it."""
  then = dict(name='mlp.bn_mlp', widths=(width,) * (more - 1))
  return dict(name='depth.chain', width=width, first=model, then=then)

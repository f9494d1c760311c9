"""The data of configs: what each set is called, and what stands in for it."""

# Pixels along a side.
SIDES = dict(
  digits=8,
  mnist=28,
  cifar10=32,
  cinic10=32,
  tiny_imagenet=64,
  histopathology=50,
)
# In vertical configs; pixels of images stay in [0, 1].
_IMAGES = 'digits', 'mnist', 'cifar10', 'cifar100'
_PRESETS = {name: dict(name=name, normalise=False) for name in _IMAGES} | {
  'breast_cancer': dict(name='breast_cancer'),
  'cinic10': dict(name='cinic10', path='CINIC-10'),
  'tiny_imagenet': dict(name='tiny_imagenet', path='tiny-imagenet-200'),
  'criteo': dict(name='criteo', path='criteo'),
  'nus_wide': dict(name='nus_wide', path='nuswide'),
  'yahoo': dict(
    name='yahoo_answers',
    path='yahoo_answers_csv',
    per_class=5000,
    counts=True,
    buckets=4096,
  ),
  'histopathology': dict(
    name='breast_histopathology',
    path='breast-histopathology-images',
    background=0.3,
  ),
}


def use(config, name, **options):
  """Sets the data of a vertical config: the training split of a set."""
  config.dataset = dict(_PRESETS[name], split='train', **options)


def cifar100(itself):
  """Returns CIFAR-100, or as many classes of its size that stand for it."""
  if itself:
    return dict(name='cifar100')
  return dict(name='stand_in', size=32, classes=100, copies=10)


def imagenet(itself, size):
  """Returns ImageNet's validation split, or what stands for it."""
  if itself:
    return dict(name='imagenet2012', size=size)
  return dict(name='stand_in', size=size, copies=50)


def synthetic(size, num_classes, per_class):
  """Returns images with the label statistics of a data set that is absent."""
  return dict(
    name='synthetic',
    shape=(size, size, 3),
    num_classes=num_classes,
    per_class=per_class,
  )

"""Images that stand for CIFAR-100's or ImageNet's where labels decide."""

from typing import Optional

from labelleak.data import Source, synthetic, tfds
from labelleak.data.reading import builders

_SAMPLE = 'imagenet_sample'  # 1000 images, one a class
_CLASSES = 1000


def stand_in(
  *,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  size: int,
  classes: int = _CLASSES,
  copies: int = 1,
) -> Source:
  """Loads the ImageNet sample, or else synthetic images, by its label counts.

  The sample is looked for in `data_dir`, then as any prepared data set; the
  name of the source says which of the two it is.

  Args:
    split: of the sample; None: its only one.
    data_dir: see `data.load`.
    size: side of the images.
    classes: K, groups of consecutive ones.
    copies: repeats the rows.

  Raises:
    InputError: an option out of range.
  """
  for root in (data_dir, None):
    if builders.locate(_SAMPLE, root):
      return tfds.images(
        dataset=_SAMPLE,
        split=split,
        data_dir=root,
        size=size,
        classes=None if classes == _CLASSES else classes,
        copies=copies,
      )
  return synthetic.synthetic(
    split=split,
    shape=(size, size, 3),
    num_classes=classes,
    per_class=copies * _CLASSES // classes,
  )

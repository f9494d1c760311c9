"""Labels of all rows from what a passive party keeps of a whole training.

A row's cut gradients say a little about its label once an epoch; rows that look
alike to the party share labels. `process` explains the evidence that `trace`
keeps by a Gaussian process on the own features, whose kernel is that of
`diffusion`; `sealed` does where a step's rows are seen in sums. Every choice is
made by the evidence, none by a label. `directions` needs no logits: it reads
cut gradients below any top model. The rules by which it is made, and their
constants, were found on seeds 100 to 105 of `configs/whole_training.py`,
digits, and on seed 100 of its MNIST.
"""

from labelleak.attacks.history.bootstrap import classifier
from labelleak.attacks.history.bound import true_labels
from labelleak.attacks.history.clustering import clusters
from labelleak.attacks.history.directions import direction_groups, directions
from labelleak.attacks.history.process import Posterior, explain
from labelleak.attacks.history.smoothing import gaussian_process
from labelleak.attacks.history.trace import Trace

__all__ = (
  'Posterior',
  'Trace',
  'classifier',
  'clusters',
  'direction_groups',
  'directions',
  'explain',
  'gaussian_process',
  'true_labels',
)

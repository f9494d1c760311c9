"""Label counts of one client's batch, from the gradient of the classifier.

Every attack returns counts [K], integers that sum to C * B. It reads the
classifier of `view.grads` (`hfl.head`), one round at a time; vmap over trials.

With mean cross entropy the bias gradient of class i is

  beta_i = -lambda_i / B + mean_k p_i(x_k)             (LLBG paper, Eq. 3)

with lambda_i the count and p the softmax. FedAVG sends the sum of S such
gradients over slices of b = ceil(B/S) examples, so one example weighs 1/b
there. The kernel's gradient is the same times the head's input; LLG sums it
over the inputs. Real clients differ (`hfl.Client`): `calibrated` reads updates
of those that are described to it, and `diagnose` says what in an update
contradicts a description.

Sources: LLBG and EBI from Gat and Sharif, "Harmful Bias" (AISec 2024); LLG,
LLG+, LLG* from Wainakh et al., "User-Level Label Leakage from Gradients" (PETS
2022); iDLG from Zhao et al. (arXiv 2001.02610).

Where the papers leave a case open: with more negative classes than examples the
most negative ones are named; ties go to the class of lower index. A view with
entries that are not finite is refused; under a trace its counts are -1.
"""

from labelleak.attacks.counts.baseline import random
from labelleak.attacks.counts.bias import ebi, llbg
from labelleak.attacks.counts.calibration import calibrated, infer_posterior
from labelleak.attacks.counts.diagnosis import diagnose
from labelleak.attacks.counts.kernel import idlg, llg, llg_plus, llg_star
from labelleak.attacks.counts.posterior import Interval, Posterior, interval
from labelleak.attacks.counts.size import infer_size

__all__ = (
  'Interval',
  'Posterior',
  'calibrated',
  'diagnose',
  'ebi',
  'idlg',
  'infer_posterior',
  'infer_size',
  'interval',
  'llbg',
  'llg',
  'llg_plus',
  'llg_star',
  'random',
)

"""Model completion: a trained bottom, a small head and few labels.

Fu et al., "Label Inference Attacks Against Vertical Federated Learning" (USENIX
Security 2022), sections 3.3 and 3.4. After training a passive party holds a
bottom that was trained to tell the labels apart. It puts an inference head on
it and trains on M labelled examples and its own unlabelled rows (`mixmatch`):
what comes out names the label of any of its rows, training rows or not.

  passive          the bottom of an honest training
  active           the same, after training with a malicious optimizer
  semi_supervised  the same learning on a bottom that never was trained, the
                   baseline that tells what the bottom leaks
  supervised       bottom and head trained on every label: a bound, no attack

The paper says that the complete model is fine-tuned, the released code trains
the head alone: its optimizer is made before the bottom is attached. `tune` is
'head' or 'all'. With 'head' the bottom still runs in training mode, and what
predicts is the average of the head on the bottom as it was stolen.

Arguments are the fields of `learners.Options`. These attacks `fit` on the host
and return what predicts; of the view they read the variables alone. `texts` has
the same for texts.
"""

from labelleak.attacks.completion.bottoms import (
  active,
  passive,
  semi_supervised,
)
from labelleak.attacks.completion.bound import supervised

__all__ = 'active', 'passive', 'semi_supervised', 'supervised'

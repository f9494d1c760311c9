"""Batch label inference by gradient inversion (BLI), the published attack.

Liu, Zou et al., "Batch Label Inference and Replacement Attacks in Black-Boxed
Vertical Federated Learning", Section 4.2. A passive party that learns nothing
but the gradient g of its own bottom model, summed over the batch, guesses the
other parties' logits z and the labels, until the guess gives the same gradient:

  D(z, labels) = || J^T U - g ||^2,  U = dL/dH at the guess.       (Eq. 11)

The bottom model enters through the map U -> J^T U alone, taken once
(`transposed_jacobian`). It is linear, so an iteration applies it and its
transpose, and never differentiates the model again: gradient inversion is
`jax.grad` of `matching_loss`, vmapped over restarts.
"""

from labelleak.attacks.inversion.restarts import batch

__all__ = ('batch',)

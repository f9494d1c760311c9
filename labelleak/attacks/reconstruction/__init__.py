"""Inputs of a client's batch from its update, once the labels are extracted.

The attacker guesses images, computes the update that they would give and moves
them until it is the one observed. `inverting_gradients` is Geiping et al.,
"Inverting Gradients" (NeurIPS 2020), in the form behind Table 10 of the LLBG
paper: labels fixed beforehand, by any attack of `counts`, then

  min_x  1 - <u(x), g> / (|u(x)| |g|) + a TV(x),

one cosine over all parameters, Adam on the sign of the gradient, pixels boxed.
`deep_leakage` is DLG, Zhu et al., "Deep Leakage from Gradients" (NeurIPS 2019):
Euclidean distance, labels guessed along with the images.

`matching` says how updates are compared.
"""

from labelleak.attacks.reconstruction.baseline import random
from labelleak.attacks.reconstruction.inverting import inverting_gradients
from labelleak.attacks.reconstruction.leakage import deep_leakage

__all__ = 'deep_leakage', 'inverting_gradients', 'random'

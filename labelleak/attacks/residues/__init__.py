"""Labels from the residues of coordinated logistic regression.

In FATE's hetero-LR a host sees g = X^T d / B in the clear: the arbiter returns
it, or what its optimizer makes of it (`attacks.arbiter`). X [B, F] are the own
features and d [B] the residues, z / 4 - t / 2 of the joint logit z and the
label t in {-1, 1} (Hardy et al., arXiv:1711.10677). Tan et al.
("Residue-based Label Protection Mechanisms in Vertical Logistic Regression",
arXiv:2205.04166) solve that for d where rank(X) >= B, and read its sign.

`least_squares` is theirs. `expectation_propagation` takes the own part of z
off, knows that t is binary, and so reads batches of many times the rank.
`epochs` pools the epochs of a training whose batches repeat: what differs
between two of them is the other parties' alone, and what they cannot move are
equations in labels alone.

The bottom may be any, with one logit of two classes: X is its Jacobian.
"""

from labelleak.attacks.residues.epochs import epochs
from labelleak.attacks.residues.propagation import expectation_propagation
from labelleak.attacks.residues.system import least_squares

__all__ = 'epochs', 'expectation_propagation', 'least_squares'

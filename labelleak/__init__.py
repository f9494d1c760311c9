"""Label leakage in federated learning: attacks, defenses, measurements.

>>> import labelleak as ll
>>> attack = ll.attacks.counts.llbg()
>>> attack = ll.attacks.load('counts.llbg')
"""

from labelleak import lazy

__version__ = '0.1.0'
__getattr__, __dir__ = lazy.modules(__name__)

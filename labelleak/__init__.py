"""Label leakage in federated learning: attacks, defenses, measurements."""

__version__ = '0.1.0'

"""Schemes of homomorphic encryption, one a file, behind one interface."""

from labelleak.he.schemes import ckks, paillier

__all__ = ['ckks', 'paillier']

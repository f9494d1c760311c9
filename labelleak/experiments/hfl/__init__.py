"""Experiments on horizontal federated learning."""

"""Experiments on vertical federated learning."""

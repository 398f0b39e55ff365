"""Activation sidecar: serve a model over gRPC and see what happens inside it."""

__version__ = "0.1.0"

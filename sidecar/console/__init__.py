"""Console: what the sidecar answers over HTTP."""

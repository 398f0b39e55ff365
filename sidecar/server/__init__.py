"""The wire: Open Inference Protocol over gRPC, from bytes to batches and back."""

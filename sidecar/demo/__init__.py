"""Demo: a real model on real data, served to real clients, and the shifts that go wrong."""

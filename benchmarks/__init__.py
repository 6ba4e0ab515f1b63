"""Measures the service and its pool against their peers: `make bench`."""

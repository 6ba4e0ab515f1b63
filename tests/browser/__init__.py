"""Tests that look at the pages of a running service as a person would, in a real browser."""

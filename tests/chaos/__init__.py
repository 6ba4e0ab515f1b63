"""Chaos: kill everything at any moment, then compare what tasks wrote with what was said of them."""

"""The HTTP service: decides, remembers, answers."""

__version__ = "0.1.0.dev0"

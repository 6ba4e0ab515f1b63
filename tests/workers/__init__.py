"""Tests of the pool: real processes, real pipes, real signals."""

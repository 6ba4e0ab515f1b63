"""The tests of Quiesce; the folders mirror the tree they test."""

"""Batches on disk: tables, transactions, questions, and the one thread that writes."""

"""Async helpers that know nothing of agents."""

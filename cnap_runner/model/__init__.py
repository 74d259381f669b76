"""Pure values and rules: no await, no clock, no I/O, no logging.

Pydantic models stand at the edges (what callers and files give us), frozen dataclasses inside.
"""

"""Gives every AI coding agent its own long-lived OpenCode container."""

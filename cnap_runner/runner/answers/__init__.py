"""Permissions and questions that agents raise: replied to by their rules, by somebody, or at their deadline."""

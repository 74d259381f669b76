"""The launcher: the small program between a manager and one OpenCode process, which outlives the manager.

What lives here runs in a Python without site-packages and must start in a few hundredths of a second, so it imports the standard
library and its own siblings only. `cnap_runner.backends.process` uses the same modules from the manager's side.
"""

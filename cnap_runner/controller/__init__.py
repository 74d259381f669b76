"""Tasks: lines of work for agents, kept in order in the store and driven by an executor through `Runner.run`."""

"""The heart: agents, their runners, and the turns they do."""

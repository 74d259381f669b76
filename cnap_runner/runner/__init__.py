"""The heart: agents, their runners, and the turns they do.

`manager` is the door. A run goes `runner` → `queue` (its place) → `instances` (a ready server) → `execution` (the turn);
`settlement` finishes what dead managers left; `watch` tells what happened to instances.
"""

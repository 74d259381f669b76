"""An agent's instances: found, used as they are, brought up to date, started, ended. `instances` is the door."""

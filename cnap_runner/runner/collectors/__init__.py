"""What agents' servers write, collected into files of ours that outlive their containers; and read again from there.

Nothing here decides what becomes of an agent. `segments` and `reading` are plain code over files and block; `collector` and `following` await.
"""

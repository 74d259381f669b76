"""What agents' servers write, collected into files of ours that outlive their containers; and read again from there.

Nothing here decides what becomes of an agent. `segments` and `server_log` block, `budget`, `resumption` and `timeline` are pure.
"""

"""The OpenCode server's REST API.

`wire` and `events` parse it, `client` calls it, `feed` keeps its stream open. `verdict` tells from its messages how a turn ended,
`narrator` turns what it tells into run events, and `turn` drives one turn to its true end.
"""

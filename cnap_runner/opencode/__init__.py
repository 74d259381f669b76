"""The OpenCode server's REST API: `wire` parses it, `client` calls it, `events` reads its stream, `turn` drives one turn to its true end."""

"""What this package tells about itself: logs, and the redaction that every exit passes."""

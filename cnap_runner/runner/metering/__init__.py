"""Measuring an install: storing what was counted, measuring its containers now and then, showing both to whoever scrapes."""

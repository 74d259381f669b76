"""What is done by itself after something broke: starts tried again, crash loops ended, records and instances brought together.

Decisions here are written into the decision log. Nothing in it deletes a workspace or a session.
"""

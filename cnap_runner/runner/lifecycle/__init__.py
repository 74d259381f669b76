"""How long instances live: frozen and stopped when idle, replaced when old or large, places given in turn, holds, figures.

What is to be done is decided in `cnap_runner.model.decisions.life`; here it is done, always under the agent's lease, between turns.
"""

"""How secrets reach an agent, and what keeps them from everybody else."""

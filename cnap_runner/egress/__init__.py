"""What an agent may reach: rules of hosts, the proxy that keeps them, and the packet filter that leaves no other way.

Here belongs what decides about and carries an agent's traffic. Which agent gets which rules is decided in `cnap_runner.runner.reach`.
"""

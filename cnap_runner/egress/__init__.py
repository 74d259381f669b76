"""What an agent may reach: the proxy of the closed network, its rules, and the packet filter around both networks."""

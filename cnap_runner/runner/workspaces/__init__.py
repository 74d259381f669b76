"""An agent's files: folders, seeding, sharing, measuring, quota, removal. Nothing here leaves an agent's folders."""

"""The commands. Each asks a runner for one thing and shows the answer."""

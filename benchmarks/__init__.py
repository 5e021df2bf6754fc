"""What quaestor costs, measured."""

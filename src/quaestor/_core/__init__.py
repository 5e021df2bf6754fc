"""Decides what happens and in which order. Standard library only: no I/O, no clock, no await, no logging."""

"""quaestor beside the tools that a user would pick in its place: the same work, on the same server, in one run.

`with_*.py` says how each of them is used, `measuring.py` what is measured; `nox -s benchmarks -- peers` does it.
"""

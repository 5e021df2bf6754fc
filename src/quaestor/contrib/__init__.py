"""Small packages for frameworks, on quaestor's public API."""

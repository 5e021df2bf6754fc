"""Where the engine runs: plain calls and threads, or an event loop."""

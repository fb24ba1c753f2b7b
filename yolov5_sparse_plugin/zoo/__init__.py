"""Models by stub: `zoo:` addresses become files, wherever they are kept."""

"""The way to places that are containers of a Docker engine."""

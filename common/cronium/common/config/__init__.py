"""The configuration: keys (`model`), units, where values come from (`load`)."""

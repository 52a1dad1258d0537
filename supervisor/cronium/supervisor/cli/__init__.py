"""The command line, one module a group of commands. Talks to people (rich) and to programs (`--json`); decides nothing."""

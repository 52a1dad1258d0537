"""The SSH executor: jobs on remote servers. Runs in a worker (and, to trust a server, in the command line)."""

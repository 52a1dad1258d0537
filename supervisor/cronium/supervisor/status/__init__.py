"""How the supervisor is: one report, for the backend, the monitor and the command line alike."""

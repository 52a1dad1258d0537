"""The deciding core: events in, writes and actions out. No sockets, no clock, no randomness of its own, no threads.

`state` is what is known of a job, `events` what can happen, `actions` what can be done about it, `decisions` the rules with a
number in them (retry, back-off), `core` the state machine of the jobs, `jobs` their changes (`done`: those that are over,
`outcomes`: how jobs end that no worker ends); beside it `crew` (workers), `dispatching` (which job to which worker), `polls`,
`leases` and `statements` (what the backend is told). For jobs on servers: `servers` (connections and slots), `breakers`,
`parking` (jobs that wait for a server), `leftovers` (what could not be removed there). The loop around it only moves bytes.
"""

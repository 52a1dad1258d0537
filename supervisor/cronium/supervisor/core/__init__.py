"""The deciding core: events in, writes and actions out. No sockets, no clock, no randomness of its own, no threads.

`state` is what is known of a job, `events` what can happen, `actions` what can be done about it, `decisions` the rules with a
number in them (retry, back-off), `core` the state machine of the jobs; beside it `crew` (workers), `polls`, `leases` and
`statements` (what the backend is told). The loop around it only moves bytes.
"""

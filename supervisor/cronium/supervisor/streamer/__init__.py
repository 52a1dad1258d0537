"""The streamer: the only owner of the WebSocket. Makes batches durable, sends, waits for acknowledgements, replays.

A process of its own (`python -m cronium.supervisor.streamer`). The way of a batch: `loop` receives it, `positions` decides,
`ledger` writes it (`spool`, `tails`), `outlet` sends it (`ackwindow`, `websocket` or `fallback`).
"""

"""The streamer: the only owner of the WebSocket. Makes batches durable, sends, waits for acknowledgements, replays.

A process of its own, forked by the forkserver (`main`; alone, for tests and measurements: `__main__`). The way of a batch:
`loop` receives it, `positions` decides, `ledger` writes it (`spool`, `tails`), `outlet` sends it (`ackwindow`, `websocket` or
`fallback`).
"""

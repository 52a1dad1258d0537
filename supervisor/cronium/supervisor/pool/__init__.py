"""The processes of the supervisor: workers forked by the forkserver (`workers`), the streamer and the queue (`roles`)."""

"""The supervisor's own roles: the deciding core and its loop, the worker pool, the streamer, the queue, the command line."""

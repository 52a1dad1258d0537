"""The standalone queue: a Cronium backend in one process, for people without the web application and for our own tests.

It speaks the contract dialect of the backend's protocol over HTTP and WebSocket on the loopback interface and keeps
everything in one SQLite file. `python -m cronium.supervisor.standalone` runs it; `client.py` talks to it.

    api, client_api, log_socket   requests and frames        (event loop)
    operations                    what each of them means    (one transaction)
    rules, coverage               what is decided            (pure)
    store, log_store              what is kept               (SQL; the database's thread)
"""

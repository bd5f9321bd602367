"""A reconstruction service over HTTP, run by Ray Serve.

    api.py, streams.py, guard.py   what callers see; they know neither Ray nor torch
    jobs.py, tokens.py, models.py  the record of jobs, who may call, which models there are
    work.py, engine.py, live.py    what a job does, with the core; they know no HTTP and no Ray
    deployments.py                 the only module that imports Ray: who runs where

``docs/serve.md`` explains its use, ``docs/decisions/0010-service.md`` its design.
"""

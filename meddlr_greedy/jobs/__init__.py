"""Jobs of several processes: how they are started, find each other and end together.

``--num-gpus`` of ``meddlr-greedy train``, ``torchrun`` or a scheduler starts the processes. :mod:`environment`
reads the variables that they get. :class:`~meddlr_greedy.jobs.job.Job` is what a process knows of its job: it meets the
others (:mod:`rendezvous`) in a key-value store (:mod:`store`), where a thread sends heartbeats and watches those of
another process (:mod:`watch`). When a process fails, it says why, and all others end, too (:mod:`failure`).
"""

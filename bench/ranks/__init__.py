"""One optimizer over many processes: times, memory, and a model of the time: ``bench distributed``.

``command`` launches ``program`` and ``memory`` under each MPI library that it finds, and ``study``
holds what they measure. ``contenders`` and ``parts`` are what is timed, ``tables``, ``checks`` and
``charts`` what is shown, and ``model`` is what is drawn beyond the processes of one machine.
"""

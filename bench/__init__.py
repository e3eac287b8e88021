"""Validates, then times one optimizer step: in cyoptim, in other libraries, and at the roof.

The flow of a measurement::

    python -m bench         __main__.py      options, progress, output
      |
      |  one process per contender     runner.py, worker.py   JSON lines over stdin and stdout
      |    build the step              contenders.py          a row per contender
      |                                own.py, loops.py, peers.py, formats.py, rivals.py, roof.c ...
      |    put it into its context     contexts.py            a row per context
      |    compare it with float64     workloads.py           made from their names
      |                                optimizers.py          a row per optimizer
      |    time it, one contender after the other, round by round
      v
    table, JSON, plot, comparison      tables/   a module per command
                                       report.py, bars.py, curves.py

Run from the repository root; nothing here is installed.
"""

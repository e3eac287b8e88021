"""**Learning-rate schedules**: pure Python, driving the ``param_groups`` of an optimizer.

::

    scheduler.step()                        base.py      added groups, state, a preview
      |
      v
    get_lr(): the rates at this epoch       decays.py    a first rate times a factor of the epoch
      |                                     warmups.py   the same, with a rise before it
      |                                     lambdas.py   with functions of the user
      |                                     cycles.py    between two bounds, with momentum
      v                                     composed.py  one after another, or multiplied
    group["lr"]: set, or filled in place    plateau.py   by a metric instead of the epoch

``arguments.py`` checks what a schedule is made of, ``states.py`` what it saves and loads,
``order.py`` that the optimizer steps first.
"""

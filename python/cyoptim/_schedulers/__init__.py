"""**Learning-rate schedules**: pure Python, driving the ``param_groups`` of an optimizer.

::

    scheduler.step()                           base.py      order of calls, added groups, state
      |
      v
    get_lr(): the rate at this epoch           decays.py    base rate times a factor of the epoch
      |                                        cycles.py    between two bounds, with momentum
      v                                        composed.py  one after another, or multiplied
    group["lr"]: set, or filled in place       plateau.py   by a metric instead of the epoch
"""

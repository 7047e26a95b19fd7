"""Faults, injected into real processes one after the other: `just faults` prints promises and outcomes.

`table` says what a fault is and prints; `world` has PostgreSQL and the houses of the faults, each a store, a database
and a running `vestibule serve`; `servers` the stores; `load` who asks meanwhile; `judging` what is looked at then.
The faults themselves are in `of_the_*.py`, each with the list `FAULTS`; what tests hold is in `held_by_tests`.
"""

"""The rules of bots, held against long random lives under a virtual clock.

Theory of operation
-------------------
A *story* is a list of steps: a command, a crash, a failing fork, an hour that passes, a clock that is set. A *stage*
plays it: it draws the next step from a seeded generator and the state of its world, carries it out, and checks after
each one what must always hold. There are two stages. `one_bot` drives the machine of one bot (`core.machine`) as the
value that it is, without asyncio; nearly all steps are played there. `fleet` puts the real fleet, actors, launches,
turns, schedules and retention on an event loop whose clock is virtual.

A step carries everything that chance decided, and means something in every world: where it does not fit, nothing
happens. So a story can be played again without its seed, and with steps left out. That is how the story of a failure
gets short before it is told.
"""

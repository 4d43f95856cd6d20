"""Moves the writers from the source to the shards: gates, fence, drain, check, sequences, seal, switch, hook.

Anything that fails before the switch is undone by itself; anything after it is only finished (`resume_cutover`).
"""

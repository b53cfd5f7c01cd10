"""Fault runs: a lab is broken in turn by a schedule that follows from a seed, everything that happens is written down,
and pure functions look through what was written down for what must never be.
"""

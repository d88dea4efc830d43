"""The reference trainer: every method in one process a core, without a network. The oracle the product is held against.

Imports nothing of edge's or the broker's methods: what both compute is compared in the tests.
"""

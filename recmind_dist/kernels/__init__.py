"""Compiled loops, and what training needs of the machine: threads, memory, cache hints.

What a GPU runs has a twin in torch, other loops one in the tests, which hold the two together.
"""

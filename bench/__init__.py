"""Benchmarks: how fast, how soon and how lean, beside the roads an institution could take instead.

They print what they measured and never assert a time. Linux only: they read ``/proc`` and run foreign tools.
"""

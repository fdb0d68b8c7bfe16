"""Environments as pure functions on the device, and adapters to those of others.

Protocol and spaces are in `protocol` and `spaces`; `vector` runs many copies with auto-reset.
"""

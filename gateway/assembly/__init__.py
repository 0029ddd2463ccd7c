"""The parts of the service, one file per subject: each builds from those before it, wires itself, and starts on a stack.

``gateway/app.py`` says in which order. A part's ``start(stack)`` pushes what stops it.
"""

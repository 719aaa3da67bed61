"""The engine: one training loop for every system, and what a process needs around it.

``runtime`` starts the process, ``mesh`` places arrays on devices, ``step`` compiles a system's steps,
``loop`` runs them, ``checkpoint`` and ``manifest`` keep and verify the state, ``interrupt`` turns
signals into saved stops. It knows systems by their contract alone, and neither files of images nor
pictures: those are joined in the mains.
"""

"""What a training step lowers: γ·forget + λ·retain, each term chosen by itself (`forget/`, `retain/`, one loss a file).

A loss has the shape of `simu.slots.ForgetLoss` or `RetainLoss`: a function of model and batch that returns a sum and
over how many units, signs included; `objective.py` adds two of them.
"""

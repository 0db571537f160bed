"""One file a stage: `Inputs` (all that the result is a function of), compute(inputs, folder, context), load(…)."""

"""Does what was unlearned stay forgotten? Attacks on a model, one a file; `suite` says which."""

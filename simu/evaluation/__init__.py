"""What a model still knows, and what it lost: generation, likelihoods, membership, and their intervals."""

"""Surrogates of an oracle: fitted, kept, compared, and told where to buy the next sample."""

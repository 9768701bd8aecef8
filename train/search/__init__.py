"""The joint search: a population of gated networks, each with a relaxed design of its own."""

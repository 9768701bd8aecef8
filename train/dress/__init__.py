"""DRESS training of a CLIP: dense, all subnets jointly, then each subnet's own norms."""

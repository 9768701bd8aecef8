"""Named experiments: each module holds one `config`, complete."""

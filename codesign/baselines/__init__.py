"""Black-box searches that a researcher would use instead: rivals of the product's own."""

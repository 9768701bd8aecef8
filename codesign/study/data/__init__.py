"""Published figures (CSV); every row has its table or section."""

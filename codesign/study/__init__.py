"""Published findings computed anew: `codesign study`."""

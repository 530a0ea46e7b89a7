"""What model calls cost: the catalogue, own prices, and the rates of both as integers."""

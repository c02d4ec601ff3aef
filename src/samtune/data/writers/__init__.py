"""A prepared dataset in the formats that other tools read."""

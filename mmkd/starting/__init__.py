"""The first steps with data of one's own: configuration files that fit them."""

"""What a person asked for: names to objects, and how a wrong request is refused."""

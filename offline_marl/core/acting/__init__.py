"""Acting: what a policy is given and remembers, and policies in loops of one's own."""

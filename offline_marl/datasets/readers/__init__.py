"""Published formats, a file each: each reader renames to our words and tells in the metadata what it assumed."""

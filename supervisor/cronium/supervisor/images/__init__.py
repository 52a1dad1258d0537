"""Runner images: which there are, how they are built, and whether one has what the launcher needs. Runs in the command line."""

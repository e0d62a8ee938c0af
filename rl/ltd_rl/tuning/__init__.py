"""`ltd tune`: its stages, what it is asked for, what it keeps."""

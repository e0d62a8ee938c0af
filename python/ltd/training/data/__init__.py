"""What drafts are trained on: conversations that the target writes, and its features."""

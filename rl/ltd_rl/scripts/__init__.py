"""The paper's two training scripts and its evaluation: their options and what they run."""

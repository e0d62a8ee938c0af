"""The paper's two training scripts: their options and what they run."""

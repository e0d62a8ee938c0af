"""`ltd analyze`: what ways to decide come to on recorded generations, up to the exact optimum."""

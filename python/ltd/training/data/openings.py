"""First words for user turns, so that the kinds of questions people ask are all among the data.

Left to itself a chat model asks mostly what its own training ended with. A turn that begins with one of these is
finished by the target, by sampling, so that hardly two come out the same.
"""

OPENINGS = (
    # code
    "Write a Python function that",
    "Write a function to",
    "Complete the following Python code:\n\ndef",
    "Fix the bug in this code:\n\n",
    "What does this code do?\n\n",
    "Explain how to use",
    "Write a SQL query",
    # maths
    "A farmer has",
    "If a train",
    "Tom buys",
    "Sarah has",
    "Calculate the",
    "Solve the equation",
    "How many",
    "The sum of",
    "A shop sells",
    "Each day,",
    # knowledge
    "Who was",
    "What is the difference between",
    "What are the main",
    "When did",
    "Where is",
    "Which country",
    "Why do",
    "How does",
    "Explain the concept of",
    # writing
    "Write a short story about",
    "Write a poem about",
    "Write an email to",
    "Compose a blog post",
    "Describe a",
    "Imagine you are",
    "Give me advice on",
    # text at hand
    "Rewrite the following sentence",
    "Summarize the following paragraph:",
    "Translate",
    "Classify the following",
    "Correct the grammar in",
    "Extract the names from",
    "Answer the question given the context.",
    # lists and plans
    "Give three tips for",
    "List five",
    "Generate a list of",
    "Create a plan for",
    "Name a",
    "Compare and contrast",
    "Suggest a",
    "Is it true that",
)

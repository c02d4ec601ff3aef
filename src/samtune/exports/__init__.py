"""Taking a tuned model to the tools people use, each export loaded again and proven before it is called done."""

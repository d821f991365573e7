"""What is measured in a process of its own: a side a file, each with its own peak of memory."""

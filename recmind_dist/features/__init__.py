"""What a rank holds of texts: its rows of their vectors, and the content views made of them."""

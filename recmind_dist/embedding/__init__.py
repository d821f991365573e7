"""The row-sharded embedding table, its optimizer, and the exchange of rows and gradients."""

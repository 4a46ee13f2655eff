"""Results for others and from others: archives written, checked and taken in; rows of another database merged."""

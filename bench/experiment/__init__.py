"""What is to be measured, and how it is known again: specs and their ids, below the store and the jobs."""

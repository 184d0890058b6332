"""Files and rows in: what a task reads, row by row, with the file and line of what is wrong."""

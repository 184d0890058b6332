"""What an inspection of data found, as tables, a picture and a page."""

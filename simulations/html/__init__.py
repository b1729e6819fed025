"""Reports as one HTML page that needs nothing but itself: templates, style, and the script that draws."""

"""``python -m benchmark.speed``: how fast the parts of this project are, beside what a user would pick instead.

`command` reads the command line and measures section after section; `harness` times calls side by side; `rows` and `tables`
turn measurements into rows and rows into Markdown; `record` is the file of results; `plain` holds the textbook versions that
the kernels are compared with, and `targets` what is wanted. Every other module is a section.
"""

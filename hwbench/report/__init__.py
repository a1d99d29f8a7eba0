"""Views over the measurement table: HTML, Markdown, JUnit, pytest-benchmark JSON and terminal tables.

Every view takes the same three things: ``run`` (the content of ``run.json``), ``table`` (the measurement table, see
`hwbench.table`) and ``verdicts``. Nothing is measured here, and nothing is shown that the table does not hold.

`format` turns figures into text, `view` finds them, `sections` arranges them in `blocks` that HTML and Markdown both
render.
"""

"""A web page that shows a model and its gates: the graph, the page, and the files it is made of."""

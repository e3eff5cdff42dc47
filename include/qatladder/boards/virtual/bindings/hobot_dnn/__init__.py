"""A stand-in for the board's Python bindings, over the vendor's simulator. Only on virtual boards; see pyeasy_dnn."""

"""One file per value of the text axis: which windows a student trains on, and in what numbering."""

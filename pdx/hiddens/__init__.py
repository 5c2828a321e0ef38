"""One file per value of the hidden axis: what is compared between the layers of both models."""

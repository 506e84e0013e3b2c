"""The shipped anchor, shown: a video, its scores, and a page that holds all of them."""

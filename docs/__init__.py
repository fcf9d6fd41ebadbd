"""The pages, and the scripts that write some of them."""

# Before a script imports meddlr, which lacks names where numpy is newer than meddlr knows.
import meddlr_greedy  # noqa: F401

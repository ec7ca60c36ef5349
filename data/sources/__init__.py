"""Where shapes come from: one file per data set or layout."""

"""Are the dumps sane data? Statistics of raw outputs (numpy), and Great Expectations over those statistics (its own process)."""

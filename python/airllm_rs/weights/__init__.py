"""Where a module's weights come from: kept in memory, or streamed from disk."""

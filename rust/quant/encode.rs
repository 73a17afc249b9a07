//! From numbers to a scheme's codes, row by row; deterministic.

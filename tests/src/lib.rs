//! Boots machines, runs programs, checks traces.

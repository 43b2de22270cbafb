//! The crabbox command line.

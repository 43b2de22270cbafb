//! The plugin wire without I/O: bounded line frames, byte credit, call bookkeeping.

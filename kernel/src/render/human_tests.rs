//! The lines, as they are parsed.

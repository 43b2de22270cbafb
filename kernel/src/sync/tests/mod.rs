//! What a sync does to a real directory, with a real shell.
